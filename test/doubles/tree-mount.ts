/** A mount of the test tree, served by a process of its own, and who looks at it: each in a process with an end. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { lacking } from './peer-tools.ts'

const child = fileURLToPath(new URL('./mounted-tree-child.ts', import.meta.url))

export const cannotMount =
  lacking('fusermount3', 'setpriv') ||
  (!existsSync('/usr/bin/python3') && 'not installed: python3') ||
  (process.getuid?.() !== 0 && 'needs root')

export interface Said {
  readonly mounted?: string
  readonly failed?: string
  readonly hint?: string
  readonly trouble?: string
  readonly ended?: boolean
}

export interface TreeMount extends AsyncDisposable {
  readonly at: string
  readonly server: ChildProcess
  readonly said: readonly Said[]
  /** When the server has ended; fails where it does not. */
  ended(): Promise<void>
  /** Runs Python with `at` as its working folder's variable `at`; gives what it prints. Fails with what it says. */
  python(script: string, options?: { readonly uid?: number }): Promise<string>
  /** The same, when it has printed 'ready' on a line of its own; what it prints then comes later. */
  busyPython(script: string, options?: { readonly uid?: number }): Promise<{ readonly ended: Promise<string> }>
  isMounted(): Promise<boolean>
}

interface Options {
  readonly uid?: number
  readonly allowOther?: boolean
  readonly entries?: number
  /** A shell's words before the server: for hosts that lack something. */
  readonly within?: readonly string[]
  readonly at?: string
}

/** Resolves when it is mounted, or the server has said why it is not. */
export async function treeMount({ within = [], at: given, ...options }: Options = {}): Promise<TreeMount> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lifeboat-mount-'))
  const at = given ?? folder
  if (options.uid !== undefined) spawnSync('chown', [`${options.uid}`, folder])
  const [program = '', ...words] = [...within, process.execPath, child, at, JSON.stringify(options)]
  const server = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  const said: Said[] = []
  const heard = Promise.withResolvers<void>()
  let text = ''
  server.stdout.setEncoding('utf8').on('data', data => {
    const lines = `${text}${data}`.split('\n')
    text = lines.pop() ?? ''
    said.push(...lines.map((line): Said => JSON.parse(line)))
    heard.resolve()
  })
  const over = new Promise<void>(resolve => server.once('close', () => resolve()))
  const isMounted = async () => (await readFile('/proc/self/mountinfo', 'utf8')).includes(` ${folder} `)
  await within60s(Promise.race([over, heard.promise]), 'the server to mount')
  return {
    at,
    server,
    said,
    ended: () => within60s(over, 'the server to end'),
    python: (script, { uid } = {}) => python(at, script, uid).ended,
    busyPython: async (script, { uid } = {}) => {
      const { ready, ended } = python(at, script, uid)
      // Whoever waits for its end is told of its failure too.
      ended.catch(() => {})
      await Promise.race([ready, ended])
      return { ended }
    },
    isMounted,
    async [Symbol.asyncDispose]() {
      server.kill('SIGTERM')
      await within60s(over, 'the server to end').catch(() => server.kill('SIGKILL'))
      if (await isMounted()) spawnSync('umount', ['-f', '-l', folder], { timeout: 10_000 })
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function within60s<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited 60 s for ${what}`)), 60_000)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

const PRELUDE = `import os, sys, errno, mmap, json, threading, time, stat
at = sys.argv[1]
def path(name): return os.path.join(at, name)
def refusal(call, *words):
    try: call(*words)
    except OSError as e: return errno.errorcode[e.errno]
    return 'done'
def ready(): print('ready', flush=True)
`

function python(at: string, script: string, uid: number | undefined): { ready: Promise<void>; ended: Promise<string> } {
  const as = uid === undefined ? [] : ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
  const [program = '', ...words] = [...as, '/usr/bin/python3', '-c', `${PRELUDE}${script}`, at]
  const process = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] })
  const ready = Promise.withResolvers<void>()
  let [out, complaint] = ['', '']
  process.stdout.setEncoding('utf8').on('data', data => {
    out += data
    if (out.includes('ready\n')) ready.resolve()
  })
  process.stderr.setEncoding('utf8').on('data', data => {
    complaint += data
  })
  const over = new Promise<string>((resolve, reject) =>
    process.once('close', code =>
      code === 0
        ? resolve(out.replace('ready\n', '').trim())
        : reject(new Error(`python ended with ${code}: ${complaint}`)),
    ),
  )
  return { ready: ready.promise, ended: within60s(over, 'python').finally(() => process.kill('SIGKILL')) }
}
