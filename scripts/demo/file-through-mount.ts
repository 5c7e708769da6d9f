/** One file of the guest's data disk, through the mount: without booting anything, and without restoring the disk. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { shell } from '../../test/guest/tool.ts'
import { LETTER } from './guest.ts'
import type { LifeboatCommand } from './lifeboat-command.ts'

export interface FileThroughMount {
  readonly lifeboat: LifeboatCommand
  /** Its id. */
  readonly point: string
  /** SHA-256 of the file, as the guest computed it. */
  readonly digest: string
  readonly at: (name: string) => string
  readonly step: (text: string) => void
}

const COPY_SECONDS = '120'

/** Resolves to what differed, '' where all is well. */
export async function fileThroughMount({ lifeboat, point, digest, at, step }: FileThroughMount): Promise<string> {
  if (!existsSync('/dev/fuse')) {
    step('nothing can be mounted here: this host has no /dev/fuse')
    return ''
  }
  await mkdir(at('mounted'))
  const mount = await lifeboat.start('mount', at('mounted'))
  try {
    // By other programs, which may be killed: what this process reads of a mount that hangs would never end.
    const copy = 'cd "$1"; timeout "$2" cp "$(dirname "$(grep -l "$3" *Z*/manifest.json)")/files/vdb-whole/$4" "$5"'
    await shell(copy, at('mounted/by-vm/demo'), COPY_SECONDS, `"id": "${point}"`, LETTER, at('letter'))
  } finally {
    mount.process.child.kill('SIGTERM')
    await mount.process.ended
  }
  const found = createHash('sha256')
    .update(await readFile(at('letter')))
    .digest('hex')
  step(
    found === digest ? 'one file came out of its data disk, as the guest left it' : 'THE FILE FROM THE MOUNT DIFFERS',
  )
  return found === digest ? '' : `${LETTER} through the mount: expected ${digest}, found ${found}`
}
