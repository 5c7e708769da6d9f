/** The shape of the house, as docs/ARCHITECTURE.md tells it: who may import whom, and what no folder may be called. */
import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { test } from 'node:test'

const everything = [
  ...['core', 'native', 'storage', 'crypto', 'block', 'repository', 'cache', 'cbt', 'nbd', 'hypervisor'],
  ...['files', 'fuse', 'guest', 'mount', 'backup', 'recovery', 'maintenance', 'agent', 'cli'],
]

/** What each folder may import. `api` and `web` see the agent's job interface alone. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  core: [],
  native: ['core'],
  storage: ['core'],
  crypto: ['core', 'native'],
  block: ['core', 'native'],
  repository: ['core', 'native', 'storage', 'crypto', 'block'],
  cache: ['core', 'block', 'repository'],
  cbt: ['core', 'block'],
  nbd: ['core', 'block', 'native'],
  files: ['core', 'block', 'native'],
  fuse: ['core', 'block', 'native', 'files'],
  hypervisor: ['core', 'block', 'cbt', 'nbd'],
  backup: ['core', 'block', 'cbt', 'hypervisor', 'repository'],
  recovery: ['core', 'native', 'block', 'cache', 'hypervisor', 'repository'],
  guest: ['core', 'block', 'native', 'files', 'recovery'],
  mount: ['core', 'block', 'files', 'guest', 'cache', 'recovery', 'repository'],
  maintenance: ['core', 'crypto', 'storage', 'repository'],
  agent: everything,
  cli: everything,
  api: ['core', 'agent'],
  web: ['core', 'agent'],
}

/** Where only one face of a folder may be seen: the file it is told in, by importing and imported folder. */
const onlyThrough: Readonly<Record<string, RegExp>> = {
  'hypervisor>nbd': /^client|^nbd-client|^constants|^wire|^extent-list/,
}

/** Folders that are handed implementations and know interfaces alone: they import types, or values that are pure. */
const interfacesOnly: Readonly<Record<string, readonly string[]>> = { backup: ['hypervisor', 'repository'] }

/** The file that says what a layer is, guarantees and does not know. */
const headFiles = [
  'storage/object-store.ts',
  'block/block-device.ts',
  'cbt/change-tracker.ts',
  'hypervisor/hypervisor.ts',
  'repository/repository.ts',
  'crypto/keys.ts',
  'native/pipeline.ts',
  'files/file-tree.ts',
  'guest/guest-filesystems.ts',
  'fuse/fuse-server.ts',
  'mount/points-tree.ts',
]

interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
}

const sources = globSync('src/**/*.ts').sort()
const imports = sources.flatMap(importsOf)

/** Static and dynamic imports and re-exports with a literal name; comments do not count. */
function importsOf(path: string): Import[] {
  const text = withoutComments(readFileSync(path, 'utf8'))
  const statements = text.matchAll(
    /^\s*(?:import|export)\b([\w\s{},*$]*?)\bfrom\s*'([^']+)'|^\s*import\s*'([^']+)'|\bimport\(\s*'([^']+)'/gm,
  )
  return [...statements].map(([, names = '', ...targets]) => ({
    from: path,
    to: targets.find(target => target !== undefined) ?? '',
    typeOnly: isTypeOnly(names),
  }))
}

/** `type { A }`, or `{ type A, type B }`; a dynamic import has no names. */
function isTypeOnly(names: string): boolean {
  return (
    /^\s+type\b/.test(names) ||
    (/^\s*\{/.test(names) && names.split(',').every(name => /^[\s{]*(type\b|\}?\s*$)/.test(name)))
  )
}

/** A line comment begins a line or follows a blank, which keeps '//' in texts. */
function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[\s\S]*?\*\/|(^|\s)\/\/.*$/gm, '')
}

const folderOf = (path: string): string => relative('src', path).split('/')[0] ?? ''
const insideSrc = ({ from, to }: Import): string => relative('src', join(dirname(from), to))

test('folders import only what the table allows', () => {
  const wrong = imports
    .filter(({ to }) => to.startsWith('.'))
    .filter(entry => {
      const [from, to] = [folderOf(entry.from), insideSrc(entry).split('/')[0] ?? '']
      if (from === to || entry.from === 'src/index.ts') return false
      if (!(mayImport[from] ?? []).includes(to)) return true
      const face = onlyThrough[`${from}>${to}`]
      return face !== undefined && !face.test(insideSrc(entry).slice(to.length + 1))
    })
    .map(({ from, to }) => `${from} imports ${to}`)
  assert.deepEqual(wrong, [])
})

test('every folder of src is in the table', () => {
  const unknown = [...new Set(sources.filter(path => path !== 'src/index.ts').map(folderOf))].filter(
    folder => !(folder in mayImport),
  )
  assert.deepEqual(unknown, [])
})

test('the capture path knows interfaces only', () => {
  const wrong = imports
    .filter(
      ({ from, to, typeOnly }) => to.startsWith('.') && !typeOnly && (interfacesOnly[folderOf(from)] ?? []).length > 0,
    )
    .filter(entry => interfacesOnly[folderOf(entry.from)]?.includes(insideSrc(entry).split('/')[0] ?? ''))
    .map(({ from, to }) => `${from} imports values from ${to}`)
  assert.deepEqual(wrong, [])
})

test('only src/native loads the addon, and nothing in src reaches out of it', () => {
  const escaping = imports.filter(entry => entry.to.startsWith('.') && insideSrc(entry).startsWith('..'))
  assert.deepEqual(
    escaping.map(({ from, to }) => `${from} imports ${to}`),
    [],
  )
  const loaders = sources.filter(
    path => /lifeboat\.node|process\.dlopen/.test(readFileSync(path, 'utf8')) && folderOf(path) !== 'native',
  )
  assert.deepEqual(loaders, [])
})

test('time, randomness and environment come in through parameters', () => {
  const forbidden = /\bDate\.now\(|\bMath\.random\(|\bnew Date\(\)|\bprocess\.env\b/
  const allowed = (path: string): boolean =>
    folderOf(path) === 'cli' || path === 'src/core/clock.ts' || path === 'src/core/random.ts'
  const wrong = sources.filter(path => !allowed(path) && forbidden.test(withoutComments(readFileSync(path, 'utf8'))))
  assert.deepEqual(wrong, [])
})

test('no folder or file has a name that collects everything', () => {
  const nothingSaid =
    /(^|\/)(utils?|helpers?|common|managers?|services?|misc|shared|lib)(\/|\.ts$)|-(utils?|helpers?|manager|service)\.ts$/
  const tree = globSync('{src,test,scripts,bench}/**/*.{ts,mjs}')
  assert.deepEqual(
    tree.filter(path => nothingSaid.test(path)),
    [],
  )
})

test('head files open by saying what the layer is, guarantees and does not know', () => {
  for (const path of headFiles.map(name => join('src', name))) {
    const comment = /^\s*\/\*\*([\s\S]*?)\*\//.exec(readFileSync(path, 'utf8'))?.[1] ?? ''
    for (const part of ['What it is', 'What it guarantees', 'What it does not know'])
      assert.ok(comment.includes(part), `${path} opens without '${part}'`)
  }
})

test('only src/index.ts gathers what other files export', () => {
  const barrels = sources.filter(
    path => path !== 'src/index.ts' && isBarrel(withoutComments(readFileSync(path, 'utf8'))),
  )
  assert.deepEqual(barrels, [])
})

const isBarrel = (text: string): boolean =>
  /^export (type )?\*/m.test(text) || text.replaceAll(/^export (type )?\{[^}]*\} from '[^']+'$/gm, '').trim() === ''

test('decision records are numbered without gaps', () => {
  const numbers = globSync('docs/decisions/*.md')
    .map(path => /\/(\d{4})-[a-z0-9-]+\.md$/.exec(path)?.[1] ?? path)
    .sort()
  assert.deepEqual(
    numbers,
    numbers.map((_, index) => String(index + 1).padStart(4, '0')),
  )
})

test('links between documents lead somewhere', () => {
  const broken = globSync(['*.md', 'docs/**/*.md']).flatMap(path =>
    [...readFileSync(path, 'utf8').matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)]
      .map(match => match[1] ?? '')
      .filter(target => !existsSync(join(dirname(path), target)))
      .map(target => `${path} -> ${target}`),
  )
  assert.deepEqual(broken, [])
})
