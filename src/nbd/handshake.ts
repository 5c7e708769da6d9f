/**
 * The server's handshake as a table of states: bytes in, replies and the next state out. It owns no socket and no clock, and
 * touches an export only for its name, description, size and preferred block size.
 */
import { limits } from '../core/limits.ts'
import * as C from './constants.ts'
import { listedContexts, selectedContexts } from './meta-contexts.ts'
import { blockSizes, type NbdExport, transmissionFlags } from './nbd-export.ts'
import * as O from './option-codec.ts'
import { type HeaderMode, putU16, putU64, readU32 } from './wire.ts'

export interface MetaContext {
  readonly id: number
  readonly name: string
}

/** In 'tls' the acknowledgement of STARTTLS is on its way: whatever comes next is for the encryption. */
type Phase = 'client-flags' | 'option-header' | 'option-payload' | 'option-skip' | 'tls' | 'transmission' | 'closed'

export interface HandshakeState {
  readonly phase: Phase
  readonly fixed: boolean
  readonly noZeroes: boolean
  readonly mode: HeaderMode
  readonly optionCount: number
  /** Of the option whose payload is awaited or skipped. */
  readonly option: number
  readonly length: number
  /** What SET_META_CONTEXT selected, and for which name. */
  readonly selected: { readonly name: string; readonly contexts: readonly MetaContext[] }
  /** Set in 'transmission'. */
  readonly export?: NbdExport
  readonly contexts: readonly MetaContext[]
  /** Set in 'closed': why, for the log. */
  readonly reason?: string
}

/** What the handshake may know of the server around it, and of what this client has proven so far. */
export interface ExportCatalog {
  /** The protocol's NOTLS is 'off'; SELECTIVETLS and FORCEDTLS are 'offered' and 'demanded' until TLS is 'on'. */
  readonly tls: 'off' | 'offered' | 'demanded' | 'on'
  readonly optionsMax: number
  /** What this client may open: the rest does not exist for it. */
  list(): readonly NbdExport[]
  find(name: string): NbdExport | undefined
  /** 'open', or why nobody is let in at the moment. */
  admission(): 'open' | 'full' | 'shutdown'
}

export interface HandshakeStep {
  readonly state: HandshakeState
  readonly replies: readonly Uint8Array[]
  /** Worth a line in the log; the text is the client's. */
  readonly note?: { readonly what: string; readonly text: string }
}

export const initialHandshake: HandshakeState = {
  phase: 'client-flags',
  fixed: false,
  noZeroes: false,
  mode: 'simple',
  optionCount: 0,
  option: 0,
  length: 0,
  selected: { name: '', contexts: [] },
  contexts: [],
}

export function greeting(): Uint8Array {
  const bytes = Buffer.alloc(18)
  bytes.set(C.NBDMAGIC, 0)
  bytes.set(C.IHAVEOPT, 8)
  putU16(bytes, 16, C.NBD_FLAG_FIXED_NEWSTYLE | C.NBD_FLAG_NO_ZEROES)
  return bytes
}

/** Bytes that `advanceHandshake` must be given next. In 'option-skip' they may come in any pieces, see `skipHandshake`. */
export function handshakeNeeds(state: HandshakeState): number {
  switch (state.phase) {
    case 'client-flags':
      return 4
    case 'option-header':
      return O.OPTION_HEADER_BYTES
    case 'option-payload':
    case 'option-skip':
      return state.length
    default:
      return 0
  }
}

const closed = (state: HandshakeState, reason: string, replies: readonly Uint8Array[] = []): HandshakeStep => ({
  state: { ...state, phase: 'closed', reason },
  replies,
})

const refused = (state: HandshakeState, type: number, text: string): HandshakeStep => ({
  state,
  replies: [O.encodeOptionReply(state.option, type, text)],
})

const acknowledged = (state: HandshakeState, replies: readonly Uint8Array[] = []): HandshakeStep => ({
  state,
  replies: [...replies, O.encodeOptionReply(state.option, C.NBD_REP_ACK)],
})

type OptionRow = {
  /** Longest payload that is looked at; a longer one closes the connection, for no legal client sends it. */
  readonly maxLength: number
  readonly run: (state: HandshakeState, payload: Uint8Array, catalog: ExportCatalog) => HandshakeStep
}

const withoutData =
  (run: (state: HandshakeState, catalog: ExportCatalog) => HandshakeStep): OptionRow['run'] =>
  (state, payload, catalog) =>
    payload.length > 0 ? refused(state, C.NBD_REP_ERR_INVALID, 'this option has no data') : run(state, catalog)

const OPTIONS: ReadonlyMap<number, OptionRow> = new Map([
  [C.NBD_OPT_EXPORT_NAME, { maxLength: limits.nbdOptionBytes, run: exportName }],
  [
    C.NBD_OPT_ABORT,
    { maxLength: limits.nbdOptionBytes, run: state => closed(state, 'abort', acknowledged(state).replies) },
  ],
  [C.NBD_OPT_LIST, { maxLength: limits.nbdOptionBytes, run: withoutData(list) }],
  [C.NBD_OPT_STARTTLS, { maxLength: limits.nbdOptionBytes, run: withoutData(startTls) }],
  [C.NBD_OPT_INFO, { maxLength: limits.nbdOptionBytes, run: infoOrGo }],
  [C.NBD_OPT_GO, { maxLength: limits.nbdOptionBytes, run: infoOrGo }],
  [C.NBD_OPT_STRUCTURED_REPLY, { maxLength: limits.nbdOptionBytes, run: withoutData(structuredReply) }],
  [C.NBD_OPT_LIST_META_CONTEXT, { maxLength: limits.nbdMetaOptionBytes, run: metaContext }],
  [C.NBD_OPT_SET_META_CONTEXT, { maxLength: limits.nbdMetaOptionBytes, run: metaContext }],
  [C.NBD_OPT_EXTENDED_HEADERS, { maxLength: limits.nbdOptionBytes, run: withoutData(extendedHeaders) }],
])

/** All that a server in FORCEDTLS mode listens to in the clear. */
const BEFORE_TLS: ReadonlySet<number> = new Set([C.NBD_OPT_STARTTLS, C.NBD_OPT_ABORT])

/** Advances by exactly `handshakeNeeds(state)` bytes. */
export function advanceHandshake(state: HandshakeState, bytes: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  switch (state.phase) {
    case 'client-flags':
      return clientFlags(state, bytes)
    case 'option-header':
      return optionHeader(state, bytes, catalog)
    case 'option-payload':
      return optionPayload(state, bytes, catalog)
    default:
      return { state, replies: [] }
  }
}

/** Passes over `length` bytes of an option that is not looked at, and refuses it when all of it has gone by. */
export function skipHandshake(state: HandshakeState, length: number, catalog: ExportCatalog): HandshakeStep {
  const rest = state.length - length
  if (rest > 0) return { state: { ...state, length: rest }, replies: [] }
  const after: HandshakeState = { ...state, phase: 'option-header', length: 0 }
  return catalog.tls === 'demanded'
    ? refused(after, C.NBD_REP_ERR_TLS_REQD, 'TLS comes first')
    : refused(after, C.NBD_REP_ERR_UNSUP, 'unknown option')
}

/** The handshake goes on inside TLS as if nothing had been agreed on before, but for what the client's flags said. */
export function handshakeInsideTls({ fixed, noZeroes, optionCount }: HandshakeState): HandshakeState {
  return { ...initialHandshake, phase: 'option-header', fixed, noZeroes, optionCount }
}

function clientFlags(state: HandshakeState, bytes: Uint8Array): HandshakeStep {
  const flags = readU32(bytes, 0)
  if ((flags & ~(C.NBD_FLAG_FIXED_NEWSTYLE | C.NBD_FLAG_NO_ZEROES)) !== 0) return closed(state, 'unknown client flags')
  const fixed = (flags & C.NBD_FLAG_FIXED_NEWSTYLE) !== 0
  const noZeroes = (flags & C.NBD_FLAG_NO_ZEROES) !== 0
  return { state: { ...state, phase: 'option-header', fixed, noZeroes }, replies: [] }
}

function optionHeader(before: HandshakeState, bytes: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  const header = O.parseOptionHeader(bytes)
  if (header === undefined) return closed(before, 'bad option magic')
  const state = { ...before, ...header, optionCount: before.optionCount + 1 }
  if (state.optionCount > catalog.optionsMax) return closed(state, 'too many options')
  if (!state.fixed && header.option !== C.NBD_OPT_EXPORT_NAME) return closed(state, 'option without fixed newstyle')
  const row = OPTIONS.get(header.option)
  if (header.length > (row?.maxLength ?? limits.nbdOptionBytes)) return closed(state, 'option too long')
  const early = catalog.tls === 'demanded' && !BEFORE_TLS.has(header.option)
  // This one has no reply that could say why.
  if (early && header.option === C.NBD_OPT_EXPORT_NAME) return closed(state, 'EXPORT_NAME without TLS')
  if (row === undefined || early)
    return header.length > 0
      ? { state: { ...state, phase: 'option-skip' }, replies: [] }
      : skipHandshake(state, 0, catalog)
  if (header.length > 0) return { state: { ...state, phase: 'option-payload' }, replies: [] }
  return optionPayload(state, new Uint8Array(0), catalog)
}

function optionPayload(before: HandshakeState, payload: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  const state: HandshakeState = { ...before, phase: 'option-header', length: 0 }
  const admission = catalog.admission()
  if (admission === 'shutdown' && state.option === C.NBD_OPT_EXPORT_NAME) return closed(state, 'shutting down')
  if (admission === 'shutdown' && state.option !== C.NBD_OPT_ABORT)
    return refused(state, C.NBD_REP_ERR_SHUTDOWN, 'server is shutting down')
  return OPTIONS.get(state.option)!.run(state, payload, catalog)
}

/** Enters transmission. Contexts that were selected for another name are lost. */
function entered(state: HandshakeState, name: string, entry: NbdExport, replies: readonly Uint8Array[]): HandshakeStep {
  const contexts = state.selected.name === name ? state.selected.contexts : []
  return { state: { ...state, phase: 'transmission', export: entry, contexts }, replies }
}

const flagsFor = (state: HandshakeState, name: string, entry: NbdExport): number =>
  transmissionFlags(entry, state.mode, state.selected.name === name && state.selected.contexts.length > 0)

function exportName(state: HandshakeState, payload: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  const name = O.parseString(payload)
  const entry = name === undefined ? undefined : catalog.find(name)
  if (name === undefined || entry === undefined) return closed(state, 'no such export')
  if (state.mode === 'extended') return closed(state, 'EXPORT_NAME after EXTENDED_HEADERS')
  if (catalog.admission() !== 'open') return closed(state, 'too many connections')
  const reply = Buffer.alloc(state.noZeroes ? 10 : 134)
  putU64(reply, 0, entry.device.size)
  putU16(reply, 8, flagsFor(state, name, entry))
  return entered(state, name, entry, [reply])
}

function list(state: HandshakeState, catalog: ExportCatalog): HandshakeStep {
  const servers = catalog
    .list()
    .map(entry =>
      O.encodeOptionReply(state.option, C.NBD_REP_SERVER, O.encodeServer(entry.name, entry.description ?? '')),
    )
  return acknowledged(state, servers)
}

function infoOrGo(state: HandshakeState, payload: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  const asked = O.parseGo(payload)
  if (asked === undefined) return refused(state, C.NBD_REP_ERR_INVALID, 'malformed request')
  const entry = catalog.find(asked.name)
  // An export that is not there and one that is there inside TLS only are told apart by nobody.
  if (entry === undefined && catalog.tls === 'offered')
    return refused(state, C.NBD_REP_ERR_TLS_REQD, 'no such export without TLS')
  if (entry === undefined)
    return {
      ...refused(state, C.NBD_REP_ERR_UNKNOWN, 'no such export'),
      note: { what: 'no such export:', text: asked.name },
    }
  if (state.option === C.NBD_OPT_GO && catalog.admission() === 'full')
    return {
      ...refused(state, C.NBD_REP_ERR_POLICY, 'too many connections'),
      note: { what: 'too many connections: refused one more to', text: asked.name },
    }
  const infos = [O.encodeInfoExport(entry.device.size, flagsFor(state, asked.name, entry))]
  if (asked.wants.has(C.NBD_INFO_NAME)) infos.push(O.encodeInfoText(C.NBD_INFO_NAME, entry.name))
  if (asked.wants.has(C.NBD_INFO_DESCRIPTION) && entry.description !== undefined)
    infos.push(O.encodeInfoText(C.NBD_INFO_DESCRIPTION, entry.description))
  if (asked.wants.has(C.NBD_INFO_BLOCK_SIZE)) {
    const { minimum, preferred, maximum } = blockSizes(entry)
    infos.push(O.encodeInfoBlockSize(minimum, preferred, maximum))
  }
  const step = acknowledged(
    state,
    infos.map(info => O.encodeOptionReply(state.option, C.NBD_REP_INFO, info)),
  )
  return state.option === C.NBD_OPT_GO ? entered(state, asked.name, entry, step.replies) : step
}

function startTls(state: HandshakeState, catalog: ExportCatalog): HandshakeStep {
  if (catalog.tls === 'off') return refused(state, C.NBD_REP_ERR_UNSUP, 'TLS is not configured')
  if (catalog.tls === 'on') return refused(state, C.NBD_REP_ERR_INVALID, 'TLS is in use')
  return acknowledged({ ...state, phase: 'tls' })
}

function structuredReply(state: HandshakeState): HandshakeStep {
  if (state.mode === 'extended') return refused(state, C.NBD_REP_ERR_EXT_HEADER_REQD, 'extended headers are in use')
  if (state.mode === 'structured') return refused(state, C.NBD_REP_ERR_INVALID, 'already negotiated')
  return acknowledged({ ...state, mode: 'structured' })
}

function extendedHeaders(state: HandshakeState): HandshakeStep {
  if (state.mode === 'extended') return refused(state, C.NBD_REP_ERR_INVALID, 'already negotiated')
  return acknowledged({ ...state, mode: 'extended' })
}

function metaContext(before: HandshakeState, payload: Uint8Array, catalog: ExportCatalog): HandshakeStep {
  const setting = before.option === C.NBD_OPT_SET_META_CONTEXT
  // A SET replaces what an earlier one chose, even when it fails.
  const state = setting ? { ...before, selected: initialHandshake.selected } : before
  if (state.mode === 'simple') return refused(state, C.NBD_REP_ERR_INVALID, 'structured replies come first')
  const asked = O.parseMetaQueries(payload)
  if (asked === undefined) return refused(state, C.NBD_REP_ERR_INVALID, 'malformed request')
  const entry = catalog.find(asked.name)
  if (entry === undefined) return refused(state, C.NBD_REP_ERR_UNKNOWN, 'no such export')
  const names = (setting ? selectedContexts : listedContexts)(entry, asked.queries)
  if (setting && names.length > limits.nbdContextsMax)
    return refused(state, C.NBD_REP_ERR_TOO_BIG, `at most ${limits.nbdContextsMax} contexts`)
  const contexts = names.map((name, i) => ({ id: setting ? i + 1 : 0, name }))
  const replies = contexts.map(({ id, name }) =>
    O.encodeOptionReply(state.option, C.NBD_REP_META_CONTEXT, O.encodeContext(id, name)),
  )
  return acknowledged(setting ? { ...state, selected: { name: asked.name, contexts } } : state, replies)
}
