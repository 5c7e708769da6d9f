/** G14: what a first boot fetches: all bytes that GETs bring, and all that is decoded, against what the guest read. */
import { debianImage } from '../test/guest/debian-image.ts'
import { tinyImage } from '../test/guest/tiny-image.ts'
import { freshRepository } from './boot-repository.ts'
import { type BootedDisk, coldBoot, firstBoots, type ReadFigures } from './boots.ts'
import { type Goal, judge } from './goal.ts'

export const goal: Goal = {
  id: 'G14',
  title: 'bytes of a first boot',
  async run({ dir, record, say }) {
    // Two boots of one guest read the same: those of G6 will do.
    const booted = async (name: string, image: () => Promise<BootedDisk>): Promise<ReadFigures | undefined> => {
      const known = firstBoots.get(name)
      if (known) return known
      const disk = await image().catch(error => say(`no ${name}: ${error}`))
      if (!disk) return undefined
      return (await coldBoot(await freshRepository(disk.disk, `${dir}/${name}`), disk, dir)).figures
    }
    const guests = [
      ['small VM', await booted('small VM', tinyImage)],
      ['Debian', await booted('Debian', debianImage)],
    ] as const
    return guests.flatMap(([name, figures]) => {
      if (figures) record(name, figures)
      const row = (what: string, bytes: (of: ReadFigures) => number, atMost: number) =>
        judge({
          goal: `G14: ${what}, ${name}`,
          product: 'first boot',
          peer: 'read by the guest',
          ratios: figures ? [bytes(figures) / figures.bytesRead] : [],
          target: { atMost },
        })
      return [
        row('stored bytes fetched', ({ bytesOfGets }) => bytesOfGets, 1),
        row('bytes decoded', ({ bytesDecoded }) => bytesDecoded, 1.5),
      ]
    })
  },
}
