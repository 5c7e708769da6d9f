/** `--version`: the package's version, the repository format and the commit, for bug reports. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

const ROOT = new URL('../../', import.meta.url)

export async function versionText(): Promise<string> {
  const { version }: { version: string } = JSON.parse(await readFile(new URL('package.json', ROOT), 'utf8'))
  const commit = await commitOf()
  return `lifeboat ${version} (repository format 1${commit ? `, commit ${commit}` : ''}, Node ${process.versions.node})`
}

/** The commit of a checkout; undefined in an installed package. */
async function commitOf(): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)('git', ['rev-parse', '--short', 'HEAD'], { cwd: ROOT })
    return stdout.trim()
  } catch {
    return undefined
  }
}
