/** `verify --adopt POINT`: a point that was never committed, and is whole for all that, is made one. */
import { LifeboatError } from '../core/errors.ts'
import { adoptPoint } from '../maintenance/adopt.ts'
import type { Invocation } from './invocation.ts'
import { resolvePoint } from './resolve-point.ts'
import { storedSize, unknownSize } from './stored-size.ts'
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
  const { packBytes } = bar.isShown ? await storedSize(repository.reading.store, { signal }) : unknownSize
  const adopted = await adoptPoint(repository, {
    point,
    who,
    leaseExpiryMs: invocation.leaseExpiryMs,
    signal,
    progress: ({ checked, bytes }) => bar.update(bytes, Math.max(bytes, packBytes), `${checked} records`),
  }).finally(() => bar.stop())
  seen.proven(adopted.key)
  const { manifest, from, checked, bytes } = adopted
  output.result({ point: manifest.point, vm: manifest.vm, adoptedFrom: from, checked, bytes }, () =>
    output.line(
      `${manifest.vm}@${manifest.point}: adopted from ${from}, ${checked} records (${formatBytes(bytes)}) read`,
    ),
  )
  return undefined
}
