/** A QEMU that was killed leaves a qcow2 that may leak clusters, which is repaired, or is damaged, which is refused. */
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import { runTool } from './external-tool.ts'

const FINE = 0
const DAMAGED = 2
const LEAKS = 3

export async function checkOverlay(file: string, options: AbortOptions = {}): Promise<'fine' | 'repaired'> {
  // Alone: what is below it is right by construction, and need not be served for this.
  const image = `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: file }, backing: null })}`
  const found = await runTool('qemu-img', ['check', '-q', image], options)
  if (found.code === FINE) return 'fine'
  if (found.code === LEAKS) {
    const repaired = await runTool('qemu-img', ['check', '-q', '-r', 'leaks', image], options)
    if (repaired.code === FINE) return 'repaired'
    throw damaged(file, repaired.stderr)
  }
  if (found.code === DAMAGED || /corrupt|not in qcow2 format|Could not open/i.test(found.stderr))
    throw damaged(file, found.stderr)
  throw new LifeboatError('tool-failed', `qemu-img could not check ${file}: ${lastLines(found.stderr)}`, {
    details: { object: file },
    hint: 'Is another program using it? Try again when it has ended.',
  })
}

const lastLines = (text: string): string => text.trim().split('\n').slice(-3).join('; ').slice(0, 500)

const damaged = (file: string, said: string): LifeboatError =>
  new LifeboatError('overlay-damaged', `the overlay ${file} is damaged: ${lastLines(said)}`, {
    details: { object: file },
    hint: `Nothing was changed. Copy it, then try qemu-img check -r all on it, and resume; what cannot be saved is lost with: lifeboat session discard`,
  })
