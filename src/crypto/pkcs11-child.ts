/** The process that loads a token's module: one request on stdin, the answer's bytes on stdout, what is wrong on stderr. */
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import type { TokenRequest } from './pkcs11-key.ts'

/** The part of the package `pkcs11js` that is used. It is compiled on installation and may be absent: nobody else needs it. */
interface Pkcs11 {
  load(path: string): void
  C_Initialize(): void
  C_GetSlotList(tokenPresent: boolean): Buffer[]
  C_GetTokenInfo(slot: Buffer): { readonly label: string }
  C_OpenSession(slot: Buffer, flags: number): Buffer
  C_Login(session: Buffer, userType: number, pin: string): void
  C_FindObjectsInit(
    session: Buffer,
    template: readonly { readonly type: number; readonly value: number | string }[],
  ): void
  C_FindObjects(session: Buffer, most: number): Buffer[]
  C_FindObjectsFinal(session: Buffer): void
  C_EncryptInit(session: Buffer, mechanism: object, key: Buffer): void
  C_Encrypt(session: Buffer, data: Buffer, target: Buffer): Buffer
  C_DecryptInit(session: Buffer, mechanism: object, key: Buffer): void
  C_Decrypt(session: Buffer, data: Buffer, target: Buffer): Buffer
  C_Finalize(): void
}

// From PKCS#11 2.40; the last is the package's own.
const CKF_SERIAL_SESSION = 4
const CKU_USER = 1
const CKA_CLASS = 0
const CKA_LABEL = 3
const CKA_KEY_TYPE = 0x100
const CKO_SECRET_KEY = 4
const CKK_AES = 0x1f
const CKM_AES_GCM = 0x1087
const CK_PARAMS_AES_GCM = 3

const NONCE_BYTES = 12
const TAG_BYTES = 16
/** Blobs are below 16 KiB, in hex, with a path and some names. */
const REQUEST_MAX = 128 * 1024

function loadPackage(): Pkcs11 {
  try {
    const { PKCS11 }: { PKCS11: new () => Pkcs11 } = createRequire(import.meta.url)('pkcs11js')
    return new PKCS11()
  } catch (error) {
    throw new Error(`the npm package pkcs11js cannot be loaded; install it: npm install pkcs11js (${messageOf(error)})`)
  }
}

function answer({ module, token, key, pin, verb, aad, data }: TokenRequest): Buffer {
  const library = loadPackage()
  library.load(module)
  library.C_Initialize()
  try {
    const slots = library.C_GetSlotList(true).filter(slot => library.C_GetTokenInfo(slot).label.trim() === token)
    if (slots.length !== 1 || !slots[0]) throw new Error(`there are ${slots.length} tokens named '${token}'`)
    const session = library.C_OpenSession(slots[0], CKF_SERIAL_SESSION)
    if (pin !== undefined) library.C_Login(session, CKU_USER, pin)
    library.C_FindObjectsInit(session, [
      { type: CKA_CLASS, value: CKO_SECRET_KEY },
      { type: CKA_KEY_TYPE, value: CKK_AES },
      { type: CKA_LABEL, value: key },
    ])
    const keys = library.C_FindObjects(session, 2)
    library.C_FindObjectsFinal(session)
    const [handle] = keys
    if (keys.length !== 1 || !handle)
      throw new Error(`the token has ${keys.length === 0 ? 'no AES key' : 'several AES keys'} named '${key}'`)
    const input = Buffer.from(data, 'hex')
    const iv = verb === 'wrap' ? randomBytes(NONCE_BYTES) : input.subarray(0, NONCE_BYTES)
    const parameter = {
      type: CK_PARAMS_AES_GCM,
      iv,
      ivBits: iv.length * 8,
      aad: Buffer.from(aad, 'hex'),
      tagBits: TAG_BYTES * 8,
    }
    const mechanism = { mechanism: CKM_AES_GCM, parameter }
    const room = Buffer.alloc(input.length + 256)
    if (verb === 'wrap') {
      library.C_EncryptInit(session, mechanism, handle)
      return Buffer.concat([iv, library.C_Encrypt(session, input, room)])
    }
    library.C_DecryptInit(session, mechanism, handle)
    return library.C_Decrypt(session, input.subarray(NONCE_BYTES), room)
  } finally {
    library.C_Finalize()
  }
}

async function readRequest(): Promise<TokenRequest> {
  let text = ''
  for await (const part of process.stdin.setEncoding('utf8')) {
    text += part
    if (text.length > REQUEST_MAX) throw new Error('the request is too long')
  }
  return JSON.parse(text)
}

const messageOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? ''

try {
  process.stdout.write(answer(await readRequest()))
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`)
  process.exitCode = 1
}
