/** Random damage to a small ext4: a few images each time, many in the full run. */
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { damageCampaign } from '../doubles/damage-campaign.ts'
import { extImage } from '../doubles/ext-image.ts'
import { patternBytes } from '../doubles/pattern.ts'

test('a damaged ext4 is told of, and ends nobody else', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'damaged-ext-'))
  for (let i = 0; i < 40; i++) await writeFile(join(folder, `file-${i}`), patternBytes(i * 4, i))
  await mkdir(join(folder, 'a', 'b'), { recursive: true })
  await symlink('x'.repeat(100), join(folder, 'a', 'link'))
  await writeFile(join(folder, 'a', 'b', 'large'), patternBytes(20_000))
  await using image = await extImage(1024, { folder, options: ['-O', '^has_journal,^metadata_csum'] })
  await rm(folder, { recursive: true })
  await damageCampaign('ext4', await readFile(image.path), 40, line => t.diagnostic(line))
})
