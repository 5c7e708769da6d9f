/** `verify --adopt POINT`: a point that was never committed, and is whole for all that, is made one. */
import { LifeboatError } from '../core/errors.ts'
import { adoptPoint } from '../maintenance/adopt.ts'
import type { Invocation } from './invocation.ts'
import { resolvePoint } from './resolve-point.ts'
import { formatBytes } from './units.ts'

export async function verifyAdopt(invocation: Invocation, text: string, words: readonly string[]): Promise<undefined> {
  if (words.length > 0)
    throw new LifeboatError('usage', '--adopt takes one point, and no others are verified with it', {
      hint: 'for example: lifeboat verify --adopt web1@1f3a',
    })
  const { output, signal, who } = invocation
  await using opened = await invocation.openRepository()
  const { repository, seen } = opened
  const { point } = await resolvePoint(repository, text, { signal })
  const bar = output.progress()
  const adopted = await adoptPoint(repository, {
    point,
    who,
    leaseExpiryMs: invocation.leaseExpiryMs,
    signal,
    progress: ({ checked, bytes }) => bar.update(bytes, bytes, `${checked} records`),
  }).finally(() => bar.stop())
  seen.proven(adopted.key)
  const { manifest, from, checked, bytes } = adopted
  if (repository.reading.lock)
    output.message('what it needs may be locked for less than promised: run `lifeboat lock renew`')
  output.result({ point: manifest.point, vm: manifest.vm, adoptedFrom: from, checked, bytes }, () =>
    output.line(
      `${manifest.vm}@${manifest.point}: adopted from ${from}, ${checked} records (${formatBytes(bytes)}) read`,
    ),
  )
  return undefined
}
