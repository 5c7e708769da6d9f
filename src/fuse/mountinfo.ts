/** /proc/self/mountinfo: what is mounted where, without a look at it. A look at a mount of our own would wait for ourselves. */
import { readFile } from 'node:fs/promises'
import type { AbortOptions } from '../core/scope.ts'

export interface MountLine {
  /** 'major:minor': of a FUSE mount the name of its connection too. */
  readonly device: string
  readonly mountPoint: string
  readonly type: string
}

/** The last one of a place is what is seen there. */
export async function mounts(options: AbortOptions = {}): Promise<readonly MountLine[]> {
  return parseMountinfo(await readFile('/proc/self/mountinfo', { encoding: 'utf8', signal: options.signal }))
}

export const parseMountinfo = (text: string): readonly MountLine[] =>
  text.split('\n').flatMap(line => {
    const words = line.split(' ')
    const [device, mountPoint, type] = [words[2], words[4], words[words.indexOf('-', 6) + 1]]
    if (device === undefined || mountPoint === undefined || type === undefined) return []
    return [{ device, mountPoint: withoutEscapes(mountPoint), type }]
  })

/** Blanks, tabs, line feeds and backslashes are there in octal; the bytes beside them are UTF-8 or whatever the name is. */
const withoutEscapes = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
