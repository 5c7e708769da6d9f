/** `by-vm/`: a folder for each VM, with its points by their times. */
import type { DirectoryNode } from '../files/file-tree.ts'
import { virtualDirectory } from '../files/virtual-node.ts'
import { found, type ListedVm, type Listing, type PointListing } from './listing.ts'
import { batched, FOLDER, linkTo, ours, type Place } from './nodes.ts'
import { PointFolder, type PointFolderContext } from './point-folder.ts'

export function vmFolders(listing: PointListing, place: Place, context: PointFolderContext): DirectoryNode {
  const vmFolder = (vm: ListedVm) => folderOf(listing, { ...place, tree: 'vms', modified: modifiedOf(vm) }, vm, context)
  return virtualDirectory({
    ...ours(place, 2n, FOLDER),
    isFrozen: false,
    async *entries(options) {
      const { vms } = await listing.current(options)
      yield* batched([...vms.values()], vm => ({ name: vm.name, node: vmFolder(vm) }))
    },
    async lookup(name, options) {
      const listed = await listing.current(options)
      const vm = found(listed.vms.get(name), listed)
      return vm && vmFolder(vm)
    },
  })
}

const modifiedOf = ({ points, latest }: ListedVm): Date => points.get(latest)!.takenAt

const LATEST = 'latest'

/** A VM whose last point has gone has none: its folder is empty for those who are still in it. */
function folderOf(
  listing: PointListing,
  place: Place,
  { name: vm, inode }: ListedVm,
  context: PointFolderContext,
): DirectoryNode {
  const latestOf = (listed: ListedVm) =>
    linkTo({ ...place, tree: 'latest', modified: modifiedOf(listed) }, vm, listed.latest)
  return virtualDirectory({
    ...ours(place, inode, FOLDER),
    isFrozen: false,
    async *entries(options) {
      const listed = (await listing.current(options)).vms.get(vm)
      if (!listed) return
      yield* batched([...listed.points], ([name, point]) => ({ name, node: new PointFolder(point, context) }))
      yield [{ name: LATEST, node: latestOf(listed) }]
    },
    async lookup(name, options) {
      const all: Listing = await listing.current(options)
      const listed = found(all.vms.get(vm), all)
      if (!listed) return undefined
      if (name === LATEST) return latestOf(listed)
      const point = found(listed.points.get(name), all)
      return point && new PointFolder(point, context)
    },
  })
}
