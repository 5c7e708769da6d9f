/** What the capture path needs of an NBD export: to read it, and to ask for its bitmaps. */
import type { BlockReader } from '../block/block-device.ts'
import type { NbdClient } from '../nbd/client.ts'

export type NbdReader = BlockReader & Pick<NbdClient, 'blockStatus'>
