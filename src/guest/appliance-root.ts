/** What Lifeboat adds to the appliance's root at each start: its scripts, its agent, and what this machine's disks are called. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type ArchiveEntry, directoriesOf, encodeCpio } from './cpio.ts'
import { AGENT_PROGRAM } from './guest-programs.ts'

/** The same from src/guest and from dist/guest. */
const inPackage = (place: string): string => fileURLToPath(new URL(`../../${place}`, import.meta.url))

const SCRIPTS = ['lib.sh', 'volumes', 'mount', 'unlock']

export interface OwnRoot {
  /** In the order in which they are attached. */
  readonly diskNames: readonly string[]
  /** Another agent than the one that the set-up built, for tests. */
  readonly agent?: string
}

/** The image's root and what is added to it. The kernel unpacks one archive after the other, and looks for each at a multiple of four bytes. */
export async function wholeRoot(image: string, own: OwnRoot): Promise<Buffer> {
  const base = await readFile(image)
  return Buffer.concat([base, Buffer.alloc((4 - (base.length % 4)) % 4), await ownRoot(own)])
}

async function ownRoot({ diskNames, agent = AGENT_PROGRAM }: OwnRoot): Promise<Buffer> {
  const script = (name: string) => readFile(inPackage(`appliance/${name}`))
  const program = (path: string, bytes: Uint8Array): ArchiveEntry => ({ path, kind: 'file', bytes, isProgram: true })
  const text = (path: string, content: string): ArchiveEntry => ({
    path,
    kind: 'file',
    bytes: Buffer.from(`${content}\n`),
  })
  const files = [
    program('init', await script('init')),
    ...(await Promise.all(SCRIPTS.map(async name => program(`lifeboat/${name}`, await script(name))))),
    program('lifeboat/agent', await readFile(agent).catch(noAgent)),
    text('lifeboat/memory', String(limits.applianceCacheBytes)),
    ...diskNames.map((name, index) => text(`lifeboat/disks/${index}`, name)),
  ]
  return encodeCpio([
    ...['dev', 'proc', 'sys', 'run'].map(directory),
    ...directoriesOf(files.map(at => at.path)),
    ...files,
  ])
}

const directory = (path: string): ArchiveEntry => ({ path, kind: 'directory' })

const noAgent = (cause: unknown): never => {
  throw new LifeboatError('appliance-unavailable', "the appliance's agent was not built", {
    cause,
    hint: 'Build it: npm run build (needs g++ and libzstd-dev).',
  })
}
