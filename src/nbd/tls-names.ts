/** The names under which permissions know a client, from its certificate: dns:, ip:, email:, uri: and cn:, as they are written there. */
import type { X509Certificate } from 'node:crypto'

const KINDS: ReadonlyMap<string, string> = new Map([
  ['DNS', 'dns'],
  ['IP Address', 'ip'],
  ['email', 'email'],
  ['URI', 'uri'],
])

export function clientNames(certificate: X509Certificate): readonly string[] {
  const names: string[] = []
  // Node quotes a name that holds a separator; no honest name needs that, and none of its parts may pass for another name.
  const unquoted = (certificate.subjectAltName ?? '').replaceAll(/"(?:[^"\\]|\\.)*"/g, '"')
  for (const entry of unquoted.split(', ')) {
    const [, kind = '', name = ''] = /^([^:"]+):([^"]+)$/.exec(entry) ?? []
    const prefix = KINDS.get(kind)
    if (prefix !== undefined) names.push(`${prefix}:${name}`)
  }
  // With several common names there is no telling which is meant.
  const common: unknown = certificate.toLegacyObject().subject?.CN
  if (typeof common === 'string') names.push(`cn:${common}`)
  return names
}
