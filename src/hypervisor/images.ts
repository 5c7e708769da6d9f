/**
 * The disks of a stopped machine, as files and block devices. A qcow2 file that can keep bitmaps is tracked by its own, under
 * the same names as in a running QEMU (so that a machine that is stopped now and started later keeps one history); all
 * others by a scan. Nobody may write to them meanwhile: QEMU's image locks are honoured.
 */
import { createHash } from 'node:crypto'
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { LifeboatError, messageOf } from '../core/errors.ts'
import type { Random } from '../core/random.ts'
import type { Capture, CapturedDisk, CaptureRequest, Hypervisor } from './hypervisor.ts'
import { refuseIfWritten } from './image-lock.ts'
import { captureByBitmap } from './qcow2-image.ts'
import { imageInfo } from './qemu-img.ts'
import { lockRun } from './run-lock.ts'
import { captureByScan } from './scanned-image.ts'

export interface Image {
  readonly name: string
  readonly path: string
  readonly format: 'raw' | 'qcow2'
}

export interface ImageSettings {
  readonly vm: string
  readonly images: readonly Image[]
  /** Where scans keep their state. Without it every backup without a bitmap reads all. */
  readonly stateDir: string
  readonly clock: Clock
  readonly random: Random
  readonly log?: (message: string) => void
  /** Neither images nor scan states are changed. */
  readonly dryRun?: boolean
}

/** One image on its way into a point. */
export interface ImageCapture {
  readonly disk: CapturedDisk
  /** The point is durable. */
  keep(): Promise<void>
  /** Puts the image's tracking back unless it was kept, and closes. */
  release(): Promise<void>
}

export const imageHypervisor = (settings: ImageSettings): Hypervisor => ({
  capture: request => captureImages(settings, request),
  async [Symbol.asyncDispose]() {},
})

async function captureImages(settings: ImageSettings, request: CaptureRequest): Promise<Capture> {
  const { vm, clock, log = () => {} } = settings
  const selected = select(settings.images, request.disks)
  const ending = new AsyncDisposableStack()
  try {
    ending.use(
      await lockRun(path.join(settings.stateDir, `${shortHash(vm)}.lock`), `the machine ${vm}`, settings.random),
    )
    const takenAt = clock.now()
    const captures: ImageCapture[] = []
    for (const image of selected.images) {
      const capture = await captureImage(settings, image, request)
      captures.push(capture)
      ending.defer(() => capture.release())
    }
    return {
      vm: { name: vm, hypervisor: { kind: 'images' } },
      consistency: 'crash',
      takenAt,
      disks: captures.map(({ disk }) => disk),
      omitted: selected.omitted,
      broken: new Promise(() => {}),
      async committed() {
        if (settings.dryRun) return
        for (const { keep, disk } of captures)
          try {
            await keep()
          } catch (error) {
            log(`the next backup of ${disk.description.name} may have to read all: ${messageOf(error)}`)
          }
      },
      [Symbol.asyncDispose]: () => ending.disposeAsync(),
    }
  } catch (error) {
    await ending.disposeAsync()
    throw error
  }
}

async function captureImage(settings: ImageSettings, image: Image, request: CaptureRequest): Promise<ImageCapture> {
  const info = image.format === 'qcow2' ? await imageInfo(image.path, image.format, request) : undefined
  if (image.format === 'raw') await refuseIfWritten(image.path)
  if (info?.keepsBitmaps) return captureByBitmap(settings, image, info, request)
  const stateFile = path.join(
    settings.stateDir,
    `${shortHash(`${request.repository}/${settings.vm}/${image.name}`)}.scan`,
  )
  return captureByScan(settings, image, stateFile, request)
}

function select(images: readonly Image[], wanted: readonly string[] | undefined) {
  const names = images.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined)
    throw new LifeboatError('usage', `the disk '${twice}' is named twice`, {
      hint: 'Give each image a name of its own.',
    })
  const unknown = wanted?.find(name => !names.includes(name))
  if (unknown !== undefined || images.length === 0)
    throw new LifeboatError('no-such-disk', `there is no image '${unknown ?? ''}'`, {
      hint: `There are: ${names.join(', ')}.`,
    })
  const isWanted = ({ name }: Image) => !wanted || wanted.includes(name)
  return {
    images: images.filter(isWanted),
    omitted: images.filter(image => !isWanted(image)).map(({ name }) => ({ name, reason: 'not-selected' as const })),
  }
}

const shortHash = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 16)
