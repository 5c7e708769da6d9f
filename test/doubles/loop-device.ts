/** A file as a block device, for as long as it is used. Needs root, which the build has; undefined elsewhere. */
import { execFileSync } from 'node:child_process'

export interface LoopDevice extends AsyncDisposable {
  readonly device: string
}

export function loopDevice(file: string): LoopDevice | undefined {
  try {
    const options = { encoding: 'utf8', stdio: 'pipe' } as const
    const device = execFileSync('losetup', ['--find', '--show', file], options).trim()
    return {
      device,
      async [Symbol.asyncDispose]() {
        execFileSync('losetup', ['--detach', device])
      },
    }
  } catch {
    return undefined
  }
}
