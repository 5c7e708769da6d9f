/** The key file (docs/repository-format.md, section 2): text that a person can print, copy and read aloud. */
import { LifeboatError } from '../core/errors.ts'
import type { Random } from '../core/random.ts'

const PREFIX = 'lifeboat-key-1:'
const SECRET_BYTES = 32

export const newKeyFileSecret = (random: Random): Uint8Array => random(SECRET_BYTES)

/** `notes` become comment lines. */
export function formatKeyFile(secret: Uint8Array, notes: readonly string[] = []): string {
  const comments = notes.flatMap(note => note.split('\n')).map(line => `# ${line}\n`)
  return `${comments.join('')}${PREFIX}${Buffer.from(secret).toString('base64url')}\n`
}

/** The 32 secret bytes. Throws 'key-wrong', never quoting the content: it may hold another secret. */
export function parseKeyFile(text: string, path: string): Uint8Array {
  const lines = text.split(/\r?\n/).filter(line => line !== '' && !line.startsWith('#'))
  const [line, ...rest] = lines
  const encoded = line?.startsWith(PREFIX) && rest.length === 0 ? line.slice(PREFIX.length) : ''
  const secret = Buffer.from(encoded, 'base64url')
  if (secret.length === SECRET_BYTES && secret.toString('base64url') === encoded) return new Uint8Array(secret)
  throw new LifeboatError('key-wrong', `${path} is not a Lifeboat key file`, {
    details: { object: path },
    hint: `A key file holds one line that begins with '${PREFIX}' and comment lines.`,
  })
}
