/** Where `files get` writes to: a folder, a tar, or stdout. */
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Writable } from 'node:stream'
import type { BlockReader } from '../block/block-device.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { ahead } from '../files/ahead.ts'
import type { Copied, CopyOptions } from '../files/copied.ts'
import type { FileNode } from '../files/file-tree.ts'
import type { Invocation } from './invocation.ts'

export type GetOutput =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'tar'; readonly path: string; readonly isTar: true }
  | { readonly kind: 'pipe'; readonly isTar: boolean }

interface Words {
  readonly output?: string
  readonly format?: string
  readonly force?: boolean
}

/** Throws 'usage' and 'output-exists'; nothing was made yet. */
export async function getOutput({ output, format, force = false }: Words, json: boolean): Promise<GetOutput> {
  if (output === undefined || output === '')
    throw new LifeboatError('usage', 'files get needs --output', {
      hint: 'a folder, a file that ends with .tar, or - for stdout',
    })
  if (format !== undefined && format !== 'tar')
    throw new LifeboatError('usage', `--format ${format} is not known`, {
      hint: 'tar is; without it files are written',
    })
  if (output === '-') {
    if (!json) return { kind: 'pipe', isTar: format === 'tar' }
    throw new LifeboatError('usage', '--output - and --json both want stdout', {
      hint: 'Write to a file: --output FILE.tar',
    })
  }
  const target = path.resolve(output)
  const isFolder = await stat(target).then(
    found => found.isDirectory(),
    () => undefined,
  )
  if (format === undefined && !(output.endsWith('.tar') && isFolder !== true)) {
    if (isFolder !== false) return { kind: 'folder', path: target }
    throw new LifeboatError('output-exists', `${output} is there, and is no folder`, {
      details: { object: target },
      hint: 'Name a folder, which is made where there is none, or a file that ends with .tar.',
    })
  }
  if (isFolder === true || (isFolder === false && !force))
    throw new LifeboatError('output-exists', `${output} is there${isFolder ? ', and is a folder' : ''}`, {
      details: { object: target },
      hint: 'Choose another name, or say --force to replace a file.',
    })
  return { kind: 'tar', path: target, isTar: true }
}

/** Bytes are the caller's again when the promise has settled. */
export type Sink = (bytes: Uint8Array) => Promise<void>

export interface OpenedSink extends AsyncDisposable {
  readonly write: Sink
  /** All was written. Without it dispose leaves nothing behind. */
  finish(): Promise<void>
}

export async function sinkOf(
  { surroundings }: Invocation,
  to: Exclude<GetOutput, { kind: 'folder' }>,
  options: { readonly force?: boolean },
): Promise<OpenedSink> {
  if (to.kind === 'pipe')
    return {
      write: bytes => written(surroundings.stdout, bytes),
      finish: async () => {},
      [Symbol.asyncDispose]: async () => {},
    }
  return await fileSink(to.path, options)
}

/** Whoever reads has gone, or its disk is full: then there is nothing left to do. */
async function written(stream: Writable, bytes: Uint8Array): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  stream.write(bytes, error => (error ? reject(error) : resolve()))
  try {
    await promise
  } catch (error) {
    throw new LifeboatError('output-failed', `stdout cannot be written: ${messageOf(error)}`, { cause: error })
  }
}

/** Appears under its name when it is whole. */
async function fileSink(target: string, { force = false }: { readonly force?: boolean }): Promise<OpenedSink> {
  const part = `${target}.part`
  const file = await opened(part)
  let isDone = false
  return {
    async write(bytes) {
      await allWritten(file, bytes, target)
    },
    async finish() {
      await file.sync()
      if (!force) await refuseExisting(target)
      await rename(part, target)
      isDone = true
    },
    async [Symbol.asyncDispose]() {
      await file.close()
      if (!isDone) await rm(part, { force: true })
    },
  }
}

async function opened(part: string): Promise<FileHandle> {
  try {
    return await open(part, 'w', 0o600)
  } catch (error) {
    throw failed(part, error)
  }
}

async function allWritten(file: FileHandle, bytes: Uint8Array, target: string): Promise<void> {
  try {
    for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten
  } catch (error) {
    throw failed(target, error)
  }
}

async function refuseExisting(target: string): Promise<void> {
  if (!(await stat(target).catch(() => undefined))) return
  throw new LifeboatError('output-exists', `${target} has come meanwhile`, {
    details: { object: target },
    hint: 'Choose another name, or say --force to replace it.',
  })
}

const failed = (target: string, error: unknown): LifeboatError => {
  const isFull = error instanceof Error && 'code' in error && error.code === 'ENOSPC'
  return new LifeboatError(isFull ? 'disk-full' : 'output-failed', `${target} cannot be written: ${messageOf(error)}`, {
    details: { object: target },
    hint: isFull ? 'Make room there and run the command again.' : 'Look at its folder, its owner and its mode.',
    cause: error,
  })
}

/** The bytes of one file, holes as zeros. */
export async function writeContents(node: FileNode, write: Sink, options: CopyOptions & AbortOptions): Promise<Copied> {
  const { signal, onProgress } = options
  await using reader = await node.open({ signal })
  const counts = { files: 1, directories: 0, others: 0, hardLinks: 0, bytes: 0, resumed: 0 }
  for await (const piece of piecesInOrder(reader, { signal })) {
    await write(piece)
    counts.bytes += piece.length
    onProgress?.(counts)
  }
  return { ...counts, problems: { first: [], count: 0 } }
}

/** All bytes, some reads under way ahead. */
export function piecesInOrder(reader: BlockReader, options: AbortOptions): AsyncGenerator<Uint8Array> {
  const read = async (offset: number, signal: AbortSignal) => {
    const piece = Buffer.allocUnsafe(Math.min(limits.copyReadBytes, reader.size - offset))
    await reader.readInto(piece, offset, { signal })
    return piece
  }
  return ahead(offsetsOf(reader.size), limits.copyReadsInFlight, read, options)
}

function* offsetsOf(size: number): Generator<number> {
  for (let offset = 0; offset < size; offset += limits.copyReadBytes) yield offset
}
