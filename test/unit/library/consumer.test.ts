/** What a program does that uses Lifeboat as a library: nothing but the one file that re-exports. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import * as lifeboat from '../../../src/index.ts'

test('a consumer backs an image up to a directory, verifies it and restores it', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'lifeboat-library-'))
  try {
    const { systemClock: clock, systemRandom: random } = lifeboat
    const image = path.join(dir, 'disk.raw')
    const content = Buffer.alloc(3 << 20)
    content.write('a boot sector', 0)
    content.fill(0x5a, 1 << 20, 2 << 20)
    await writeFile(image, content)

    const store = lifeboat.retrying(
      await lifeboat.openStore(path.join(dir, 'repository'), { environment: {}, create: true }),
      { clock, random },
    )
    await using _store = store
    const credential = { kind: 'file', secret: lifeboat.newKeyFileSecret(random) } as const
    await lifeboat.initRepository({ store, credential, clock, random })
    await using repository = await lifeboat.openRepository({
      store,
      credential,
      clock,
      random,
      host: 'library',
      pipeline: lifeboat.loadPipeline(),
    })
    await using hypervisor = lifeboat.imageHypervisor({
      vm: 'web1',
      images: [{ name: 'vda', path: image, format: 'raw' }],
      stateDir: path.join(dir, 'state'),
      clock,
      random,
    })
    const { point: id } = await lifeboat.backupVm({
      vm: 'web1',
      hypervisor,
      repository,
      clock,
      random,
      kind: 'incremental',
      fleecingDir: dir,
    })

    const points = await repository.points()
    const point = lifeboat.resolvePoint(lifeboat.parsePointReference('web1@latest'), points)
    assert.equal(point.id, id)
    const verified = await lifeboat.verifyPoints(repository, { points })
    assert.deepEqual(verified.problems, [])

    await using opened = await repository.openPoint(point, { pin: 'restore' })
    const output = path.join(dir, 'restored.raw')
    await lifeboat.restoreDisk(opened, 'vda', { output, clock, random })
    assert.ok((await readFile(output)).equals(content))
    assert.equal(typeof lifeboat.instantRecover, 'function')
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})
