/**
 * Who may open which export: the file `permissions.json` beside the certificates.
 *
 *     { "clients": { "cn:restore-host": ["web1/*", "db1/vda"], "psk:alice": ["*"] } }
 *
 * A client may open what any of its names may. In a pattern only `*` has a meaning: any run of characters. Who is not in the
 * file may open nothing; an export that a client may not open does not exist for it.
 */
import { LifeboatError } from '../core/errors.ts'

export interface Permissions {
  allows(clientNames: readonly string[], exportPath: string): boolean
}

const CLIENT = /^(?:cn|dns|ip|email|uri|psk):./

export function parsePermissions(text: string, path: string): Permissions {
  const wrong = (what: string) =>
    new LifeboatError('tls-credentials', `${path}: ${what}`, {
      details: { object: path },
      hint: 'write it as {"clients": {"cn:NAME": ["VM/DISK", "VM/*"]}}; names begin with cn:, dns:, ip:, email:, uri: or psk:',
    })
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw wrong('not JSON')
  }
  if (!isRecord(parsed) || Object.keys(parsed).join() !== 'clients' || !isRecord(parsed.clients))
    throw wrong('the only member must be "clients"')
  const patterns = new Map<string, readonly RegExp[]>()
  for (const [name, list] of Object.entries(parsed.clients)) {
    if (!CLIENT.test(name)) throw wrong(`"${name}" does not say what kind of name it is`)
    if (!Array.isArray(list) || !list.every(entry => typeof entry === 'string'))
      throw wrong(`the exports of "${name}" are not a list of texts`)
    patterns.set(name, list.map(patternOf))
  }
  return {
    allows: (names, exportPath) =>
      names.some(name => patterns.get(name)?.some(pattern => pattern.test(exportPath)) === true),
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function patternOf(text: string): RegExp {
  const literals = text.split(/\*+/).map(part => part.replaceAll(/[\\^$.+?()[\]{}|]/g, '\\$&'))
  return new RegExp(`^${literals.join('.*')}$`, 'su')
}
