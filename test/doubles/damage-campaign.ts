/** The story of one campaign for who reads the log, and what it must not have shown. */
import assert from 'node:assert/strict'
import { type DamageReport, readDamaged } from './damaged-images.ts'

export async function damageCampaign(
  kind: string,
  base: Buffer,
  count: number,
  say: (line: string) => void,
): Promise<DamageReport> {
  const seed = Number(process.env.LIFEBOAT_TEST_SEED ?? 20261122)
  const report = await readDamaged(base, count, seed)
  const { images, files, failed, unreadable, deaths, endless, memoryKiB } = report
  say(`${kind}, seed ${seed} (LIFEBOAT_TEST_SEED): ${images} damaged images, ${files} files, ${failed} calls refused,`)
  say(
    `${unreadable} images not opened, ${deaths.length} deaths, ${endless} at the test's bound, ${memoryKiB} KiB at most`,
  )
  for (const death of deaths.slice(0, 10)) say(death)
  assert.ok(failed + unreadable > 0, 'no damage was ever met')
  assert.ok(deaths.length <= count / 20, `${deaths.length} of ${count} images ended the process`)
  return report
}
