/** The client's side of the handshake, from the greeting to the first request, over anything that can read and write bytes. */
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import * as C from './constants.ts'
import type { MetaContext } from './handshake.ts'
import { escapeText } from './log-line.ts'
import * as O from './option-codec.ts'
import { type HeaderMode, putU32, readU16, readU32, readU64 } from './wire.ts'

/** Bytes in order. `read` fails when the peer closes. */
export interface Dialogue {
  read(length: number): Promise<Uint8Array>
  write(bytes: Uint8Array): void
}

export interface Negotiated {
  readonly mode: HeaderMode
  readonly size: number
  readonly flags: number
  readonly contexts: readonly MetaContext[]
  readonly minimumBlock: number
  readonly preferredBlock: number
  readonly maximumPayload: number
  readonly description: string | undefined
}

export interface Wanted {
  readonly exportName: string
  readonly contexts: readonly string[]
  /** The best mode to ask for; a server that refuses gets the next lower one. */
  readonly mode: HeaderMode
}

/** Replies to one option that a client looks at before it calls the server broken. */
const REPLIES_MAX = 1024

export const protocolError = (text: string): LifeboatError =>
  new LifeboatError('nbd-protocol', `the NBD server broke the protocol: ${text}`, {
    hint: 'The connection was closed and nothing of this reply was used. Check which program serves this export.',
  })

/** With `secure`, which puts TLS under the dialogue, nothing is asked or believed before that has been done. */
export async function negotiate(dialogue: Dialogue, wanted: Wanted, secure?: () => Promise<void>): Promise<Negotiated> {
  const oldFlags = await greet(dialogue)
  if (secure !== undefined) {
    await demandTls(dialogue)
    await secure()
  }
  const mode = await agreeOnMode(dialogue, wanted.mode)
  const contexts = mode === 'simple' || wanted.contexts.length === 0 ? [] : await setContexts(dialogue, wanted)
  return { ...(await go(dialogue, wanted.exportName, oldFlags)), mode, contexts }
}

/** Gives the flags that both sides agreed on. */
async function greet(dialogue: Dialogue): Promise<number> {
  const hello = await dialogue.read(18)
  if (C.NBDMAGIC.compare(hello, 0, 8) !== 0 || C.IHAVEOPT.compare(hello, 8, 16) !== 0)
    throw protocolError('no newstyle greeting')
  const flags = readU16(hello, 16) & (C.NBD_FLAG_FIXED_NEWSTYLE | C.NBD_FLAG_NO_ZEROES)
  if ((flags & C.NBD_FLAG_FIXED_NEWSTYLE) === 0) throw protocolError('not fixed newstyle')
  const answer = new Uint8Array(4)
  putU32(answer, 0, flags)
  dialogue.write(answer)
  return flags
}

async function agreeOnMode(dialogue: Dialogue, best: HeaderMode): Promise<HeaderMode> {
  if (best === 'extended' && (await accepted(dialogue, C.NBD_OPT_EXTENDED_HEADERS))) return 'extended'
  if (best !== 'simple' && (await accepted(dialogue, C.NBD_OPT_STRUCTURED_REPLY))) return 'structured'
  return 'simple'
}

/** There is no going on without: whoever sits in between could have taken the offer away. */
async function demandTls(dialogue: Dialogue): Promise<void> {
  if (await accepted(dialogue, C.NBD_OPT_STARTTLS)) return
  throw new LifeboatError('nbd-refused', 'the server does not offer TLS', {
    hint: 'Nothing was asked of it in the clear. Start its server with TLS, or connect without where the network is trusted.',
  })
}

async function accepted(dialogue: Dialogue, option: number): Promise<boolean> {
  dialogue.write(O.encodeOption(option, new Uint8Array(0)))
  const { type, payload } = await optionReply(dialogue, option)
  if (type === C.NBD_REP_ACK) return true
  if (type === C.NBD_REP_ERR_TLS_REQD) throw refusal(type, payload)
  if (type < C.NBD_REP_FLAG_ERROR) throw protocolError('an unexpected option reply')
  return false
}

async function optionReply(dialogue: Dialogue, option: number): Promise<{ type: number; payload: Uint8Array }> {
  const header = O.parseOptionReplyHeader(await dialogue.read(O.OPTION_REPLY_HEADER_BYTES))
  if (header === undefined) throw protocolError('bad magic in an option reply')
  if (header.option !== option) throw protocolError('a reply to another option')
  if (header.length > limits.nbdOptionBytes) throw protocolError('an option reply is too long')
  return { type: header.type, payload: header.length > 0 ? await dialogue.read(header.length) : new Uint8Array(0) }
}

function refusal(type: number, payload: Uint8Array): LifeboatError {
  const said = payload.length > 0 ? `: ${escapeText(Buffer.from(payload.subarray(0, 512)).toString('utf8'))}` : ''
  const text = REFUSALS.get(type) ?? 'the server refused the export'
  return new LifeboatError('nbd-refused', `${text}${said}`, {
    details: { reply: type },
    hint: 'Check the name of the export and what the server allows (nbdinfo --list shows it).',
    retry: type === C.NBD_REP_ERR_SHUTDOWN ? 'transient' : 'permanent',
  })
}

const REFUSALS: ReadonlyMap<number, string> = new Map([
  [C.NBD_REP_ERR_UNKNOWN, 'the server has no such export'],
  [C.NBD_REP_ERR_TLS_REQD, 'the server demands TLS'],
  [C.NBD_REP_ERR_POLICY, 'the server does not let this client in'],
  [C.NBD_REP_ERR_SHUTDOWN, 'the server is shutting down'],
])

async function setContexts(dialogue: Dialogue, wanted: Wanted): Promise<MetaContext[]> {
  dialogue.write(O.encodeOption(C.NBD_OPT_SET_META_CONTEXT, O.encodeMetaQueries(wanted.exportName, wanted.contexts)))
  const contexts: MetaContext[] = []
  for (let count = 0; count < REPLIES_MAX; count++) {
    const { type, payload } = await optionReply(dialogue, C.NBD_OPT_SET_META_CONTEXT)
    if (type === C.NBD_REP_ACK) return contexts
    if (type === C.NBD_REP_ERR_TLS_REQD || type === C.NBD_REP_ERR_UNKNOWN) throw refusal(type, payload)
    if (type >= C.NBD_REP_FLAG_ERROR) return []
    if (type !== C.NBD_REP_META_CONTEXT || payload.length < 4) throw protocolError('an unexpected option reply')
    const id = readU32(payload, 0)
    const name = O.parseString(payload.subarray(4))
    if (name === undefined || contexts.some(context => context.id === id)) throw protocolError('a bad meta context')
    // nbdkit selects a context twice when it is asked for twice; what was not asked for is of no use.
    if (wanted.contexts.includes(name) && !contexts.some(context => context.name === name)) contexts.push({ id, name })
    else contexts.push({ id, name: `(unwanted) ${name}` })
  }
  throw protocolError('endless replies to an option')
}

type Settled = Omit<Negotiated, 'mode' | 'contexts'>

async function go(dialogue: Dialogue, exportName: string, handshakeFlags: number): Promise<Settled> {
  const wants = [C.NBD_INFO_BLOCK_SIZE, C.NBD_INFO_DESCRIPTION]
  dialogue.write(O.encodeOption(C.NBD_OPT_GO, O.encodeGo(exportName, wants)))
  let size: number | undefined
  let flags = 0
  let description: string | undefined
  let blocks = { minimum: 1, preferred: 4096, maximum: limits.nbdPayloadAdvertised }
  for (let count = 0; count < REPLIES_MAX; count++) {
    const { type, payload } = await optionReply(dialogue, C.NBD_OPT_GO)
    if (type === C.NBD_REP_ACK) {
      if (size === undefined) throw protocolError('no size of the export')
      return settled(size, flags, blocks, description)
    }
    if (type === C.NBD_REP_ERR_UNSUP) return exportNameInstead(dialogue, exportName, handshakeFlags)
    if (type >= C.NBD_REP_FLAG_ERROR) throw refusal(type, payload)
    const info = type === C.NBD_REP_INFO ? O.parseInfo(payload) : undefined
    if (info === undefined) throw protocolError('an unexpected option reply')
    if (info.info === 'export') {
      size = info.size
      flags = info.flags
    } else if (info.info === 'block-size') blocks = info
    else if (info.info === 'text' && info.type === C.NBD_INFO_DESCRIPTION) description = info.text
  }
  throw protocolError('endless replies to an option')
}

/** Servers older than GO: they answer success with the size, and failure by closing. */
async function exportNameInstead(dialogue: Dialogue, exportName: string, handshakeFlags: number): Promise<Settled> {
  dialogue.write(O.encodeOption(C.NBD_OPT_EXPORT_NAME, Buffer.from(exportName)))
  const reply = await dialogue.read((handshakeFlags & C.NBD_FLAG_NO_ZEROES) !== 0 ? 10 : 134)
  const blocks = { minimum: 1, preferred: 4096, maximum: limits.nbdPayloadAdvertised }
  return settled(readU64(reply, 0), readU16(reply, 8), blocks, undefined)
}

function settled(
  size: number,
  flags: number,
  { minimum, preferred, maximum }: { minimum: number; preferred: number; maximum: number },
  description: string | undefined,
): Settled {
  if (size > limits.diskSizeMax) throw protocolError('an absurd size of the export')
  const isPower = (value: number) => value > 0 && 2 ** Math.floor(Math.log2(value)) === value
  if (!isPower(minimum) || minimum > 65536 || !isPower(preferred) || preferred < minimum || maximum < minimum)
    throw protocolError('absurd block sizes')
  const payload = Math.min(maximum, limits.nbdPayloadAdvertised)
  return {
    size,
    flags,
    description,
    minimumBlock: minimum,
    preferredBlock: Math.min(preferred, payload),
    maximumPayload: payload - (payload % minimum),
  }
}
