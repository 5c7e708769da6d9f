/** Images of ext2, ext3 and ext4, made by their own tools without a mount. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { shell, tool } from '../guest/tool.ts'

export interface ExtImage extends AsyncDisposable {
  readonly path: string
  /** Commands of debugfs, which may write. */
  readonly debugfs: (...commands: readonly string[]) => Promise<string>
}

/** Of the size in KiB, with the files of `folder` where one is given. */
export async function extImage(
  kib: number,
  { folder, options = [] }: { readonly folder?: string; readonly options?: readonly string[] } = {},
): Promise<ExtImage> {
  const place = await mkdtemp(join(tmpdir(), 'ext-image-'))
  const path = join(place, 'image')
  const filled = folder === undefined ? [] : ['-d', folder]
  await tool('mkfs.ext4', '-q', '-F', ...options, ...filled, path, `${kib}k`)
  return {
    path,
    async debugfs(...commands) {
      const script = join(place, 'commands')
      await writeFile(script, `${commands.join('\n')}\n`)
      return await shell('debugfs -w -f "$1" "$2" 2>&1', script, path)
    },
    [Symbol.asyncDispose]: () => rm(place, { recursive: true }),
  }
}
