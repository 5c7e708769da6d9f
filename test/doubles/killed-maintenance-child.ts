/** A host that does one piece of maintenance on a directory repository and is killed at a change of the disk. */
import { readFile } from 'node:fs/promises'
import { seededRandom } from '../../src/core/random.ts'
import { nodeFiles } from '../../src/storage/files.ts'
import { filesystemStore } from '../../src/storage/filesystem.ts'
import { crashPoint } from './crash.ts'
import { crashFiles } from './crash-files.ts'
import { isWorkName, works } from './maintenance-works.ts'

const [root = '', image = '', name = ''] = process.argv.slice(2)
if (!isWorkName(name)) throw new Error(`no such work: ${name}`)
const point = crashPoint()
// Seeded, so that every run makes the same changes in the same folders.
const random = seededRandom('child')
const store = filesystemStore(root, { files: crashFiles(nodeFiles, point.reach), random: seededRandom('files') })
await works[name]({ store, random }, await readFile(image))
process.stdout.write('done\n')
point.finish()
