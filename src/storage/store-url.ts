/**
 * Repository URLs: a path, `file:///path`, or `s3://BUCKET/PREFIX?endpoint=...&region=...&path-style=true`. Credentials are
 * never part of one, because URLs end up in process lists, logs and shell histories.
 */
import { fileURLToPath } from 'node:url'
import { LifeboatError } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import { filesystemStore } from './filesystem.ts'
import { isSafeKey, type ObjectStore } from './object-store.ts'

export type StoreLocation =
  | { readonly kind: 'directory'; readonly path: string }
  | {
      readonly kind: 's3'
      readonly bucket: string
      /** A key prefix without a '/' at its end, or ''. */
      readonly prefix: string
      readonly endpoint?: string
      readonly region?: string
      readonly pathStyle: boolean
    }

export interface StoreCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

export interface OpenStoreOptions {
  /** AWS_ACCESS_KEY_ID and its kin, AWS_PROFILE, AWS_REGION. Where it has no keys, the SDK's own chain looks further. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** From the config file; wins over the environment. */
  readonly credentials?: StoreCredentials
  /** A directory that is not there yet is made at the first put: for `init`. */
  readonly create?: boolean
  readonly random?: Random
}

/** The bare store: no retries, no meter. Nothing is asked of it yet. */
export async function openStore(url: string, options: OpenStoreOptions): Promise<ObjectStore> {
  const location = parseStoreUrl(url)
  const { environment, create, random } = options
  if (location.kind === 'directory') return filesystemStore(location.path, { create, random })
  // Loading the SDK takes 0.4 s, which a repository in a directory shall not pay.
  const { s3Store } = await import('./s3.ts')
  return s3Store({
    ...location,
    region: location.region ?? environment.AWS_REGION ?? environment.AWS_DEFAULT_REGION,
    credentials: options.credentials ?? environmentCredentials(environment),
    profile: environment.AWS_PROFILE,
  })
}

export function parseStoreUrl(text: string): StoreLocation {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]+):/.exec(text)?.[1]?.toLowerCase()
  if (text === '') throw usage('The repository URL is empty')
  if (scheme === undefined) return { kind: 'directory', path: text }
  if (scheme === 'file') return parseFileUrl(parseUrl(text))
  if (scheme === 's3') return parseS3Url(parseUrl(text))
  throw usage(`'${scheme}:' is no kind of store that is known here`)
}

function parseUrl(text: string): URL {
  const url = URL.parse(text)
  if (!url) throw usage('The repository URL cannot be read')
  if (url.username !== '' || url.password !== '')
    throw new LifeboatError('usage', 'A repository URL must not hold credentials', {
      hint: 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use the config file. Change the keys that stood in the URL: they may be in your shell history.',
    })
  // The parser would resolve them, and a slip of the keyboard would name another repository.
  if (/\/\.\.?(\/|$)/.test(text.split('?')[0] ?? '')) throw usage("A repository URL has no part '.' or '..'")
  if (url.hash !== '') throw usage("A repository URL has no part after a '#'")
  return url
}

function parseFileUrl(url: URL): StoreLocation {
  if (url.search !== '') throw usage('A file: URL takes no parameters')
  if (!/^file:\/\//i.test(url.href) || url.pathname === '/' || (url.host !== '' && url.host !== 'localhost'))
    throw usage('A file: URL is written with three slashes and a path')
  try {
    return { kind: 'directory', path: fileURLToPath(url) }
  } catch (error) {
    throw usage('The path of the file: URL cannot be read', error)
  }
}

const PARAMETERS: ReadonlySet<string> = new Set(['endpoint', 'region', 'path-style'])

function parseS3Url(url: URL): StoreLocation {
  for (const name of url.searchParams.keys())
    if (!PARAMETERS.has(name))
      throw usage(`An s3: URL knows the parameters ${[...PARAMETERS].join(', ')}, not '${name}'`)
  const bucket = url.host
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/.test(bucket)) throw usage(`'${bucket}' cannot be the name of a bucket`)
  const prefix = decodedPath(url).replace(/^\/+|\/+$/g, '')
  if (prefix !== '' && !isSafeKey(prefix))
    throw usage(`'${prefix}' cannot be a prefix: letters, digits, and ._~%=-/ are`)
  const endpoint = url.searchParams.get('endpoint') ?? undefined
  if (endpoint !== undefined) checkEndpoint(endpoint)
  const region = url.searchParams.get('region') ?? undefined
  if (region !== undefined && !/^[A-Za-z0-9_-]{1,64}$/.test(region)) throw usage(`'${region}' cannot be a region`)
  return { kind: 's3', bucket, prefix, endpoint, region, pathStyle: parsePathStyle(url, endpoint) }
}

function decodedPath(url: URL): string {
  try {
    return decodeURIComponent(url.pathname)
  } catch (error) {
    throw usage('The prefix of the s3: URL cannot be read', error)
  }
}

/** Without a word, a store of one's own gets path style (its certificate names one host), and Amazon the other. */
function parsePathStyle(url: URL, endpoint: string | undefined): boolean {
  const value = url.searchParams.get('path-style')
  if (value === null) return endpoint !== undefined
  if (value !== 'true' && value !== 'false') throw usage("path-style is 'true' or 'false'")
  return value === 'true'
}

function checkEndpoint(endpoint: string): void {
  const url = URL.parse(endpoint)
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:') || url.search !== '' || url.hash !== '')
    throw usage('The endpoint is not an http: or https: address')
  if (url.username !== '' || url.password !== '') throw usage('An endpoint must not hold credentials')
}

function environmentCredentials(environment: OpenStoreOptions['environment']): StoreCredentials | undefined {
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN } = environment
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) return undefined
  return {
    accessKeyId: AWS_ACCESS_KEY_ID,
    secretAccessKey: AWS_SECRET_ACCESS_KEY,
    ...(AWS_SESSION_TOKEN ? { sessionToken: AWS_SESSION_TOKEN } : {}),
  }
}

const usage = (message: string, cause?: unknown): LifeboatError =>
  new LifeboatError('usage', message, {
    hint: 'Write a path, file:///path, or s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION&path-style=true.',
    cause,
  })
