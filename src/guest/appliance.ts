/**
 * The appliance: a small VM that reads what is inside a guest's disks with the kernel's own drivers, all disks of the guest attached.
 * It stays for as long as its owner keeps it, and is killed where it does not answer; then the call fails, and the next one has
 * another appliance, for some times, in which those volumes are unlocked again that were.
 */
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileTree } from '../files/file-tree.ts'
import { type Accelerator, chooseAccelerator, hostBootId } from '../recovery/accelerator.ts'
import type { Exporter } from '../recovery/exporter.ts'
import { applianceImage } from './appliance-image.ts'
import { type ApplianceVm, startAppliance } from './appliance-vm.ts'
import type { GuestDisk, GuestFilesystems, OpenGuest, Volume } from './guest-filesystems.ts'
import { type RemoteGuests, remoteGuests } from './remote-tree.ts'
import { lastWords, RestartedParser } from './restarted-parser.ts'

export interface ApplianceGuestsOptions {
  readonly exporter: Exporter
  readonly clock: Clock
  /** The image is built there once. */
  readonly cacheDir: string
  /** The verdict about KVM is kept there. */
  readonly stateDir: string
  readonly runDir: string
  /** Names the trees of one guest, another one for each. */
  readonly treePrefix: () => string
  readonly accelerator?: Accelerator | 'auto'
  /** A folder on a disk; default /var/tmp. */
  readonly temporary?: string
  readonly program?: string
  /** Told when something takes long: the image is built, once on a host. */
  readonly tell?: (message: string) => void
  /** Another agent than the set-up built, for tests. */
  readonly agent?: string
  /** Told of each QEMU, for tests. */
  readonly onStart?: (pid: number | undefined) => void
  /** Default `guestRequestMs`. */
  readonly requestMs?: number
}

/** Throws 'appliance-unavailable' where it cannot be built here, 'guest-lost' where it does not come up. */
export const applianceGuests =
  (given: ApplianceGuestsOptions): OpenGuest =>
  async (disks, options = {}) => {
    const guests = new ApplianceGuests(given, disks)
    try {
      await guests.start(options)
      return guests
    } catch (error) {
      await guests[Symbol.asyncDispose]()
      throw error
    }
  }

class ApplianceGuests implements GuestFilesystems {
  readonly #given: ApplianceGuestsOptions
  readonly #disks: readonly GuestDisk[]
  readonly #keys = new Map<string, Uint8Array>()
  readonly #appliance: RestartedParser<ApplianceVm>

  constructor(given: ApplianceGuestsOptions, disks: readonly GuestDisk[]) {
    this.#given = given
    this.#disks = disks
    this.#appliance = new RestartedParser({
      startsMax: limits.applianceStartsMax,
      clock: given.clock,
      start: async signal => {
        const vm = await startAppliance(await this.#request(signal))
        given.onStart?.(vm.pid)
        return vm
      },
      connect: (vm, signal) => this.#connect(vm, signal),
      died,
      diedTooOften,
    })
  }

  async start(options: AbortOptions): Promise<void> {
    await this.#appliance.start(options)
  }

  async volumes(options: AbortOptions = {}): Promise<readonly Volume[]> {
    return await this.#appliance.use(options, guests => guests.volumes(options))
  }

  async unlock(volume: string, key: Uint8Array, options: AbortOptions = {}): Promise<void> {
    await this.#appliance.use(options, guests => guests.unlock(volume, key, options))
    this.#keys.set(volume, key)
  }

  async open(volume: string, options: AbortOptions = {}): Promise<FileTree> {
    return await this.#appliance.use(options, guests => guests.open(volume, options))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#appliance[Symbol.asyncDispose]()
  }

  async #connect(vm: ApplianceVm, signal: AbortSignal): Promise<RemoteGuests> {
    const { clock, treePrefix, requestMs } = this.#given
    const [stream, helloMs] = [vm.protocol, limits.applianceStartMs]
    const guests = await remoteGuests({ stream, clock, treePrefix: treePrefix(), helloMs, requestMs, signal })
    await vm.isUp()
    // A QEMU that hangs closes nothing: when its agent is given up, it goes.
    guests.ended
      .then(() => lastWords(vm, clock))
      .then(() => vm[Symbol.asyncDispose]())
      .catch(() => {})
    for (const [volume, key] of this.#keys) await guests.unlock(volume, key, { signal })
    return guests
  }

  async #request(signal: AbortSignal) {
    const { exporter, clock, cacheDir, stateDir, runDir, agent, tell, program = 'qemu-system-x86_64' } = this.#given
    const image = await applianceImage({ cacheDir, clock, tell, signal })
    const { accelerator } = await chooseAccelerator({
      wanted: this.#given.accelerator ?? 'auto',
      program,
      stateDir,
      runDir,
      bootId: await hostBootId(),
      signal,
    })
    const temporary = this.#given.temporary ?? '/var/tmp'
    return { disks: this.#disks, exporter, image, accelerator, temporary, program, agent, signal }
  }
}

const died = (how: string, cause: unknown): LifeboatError =>
  new LifeboatError('guest-lost', `the appliance that reads the guest's filesystems ${how}`, {
    retry: 'transient',
    hint: 'The filesystem may be damaged or hostile, or this host short of memory. Try again: another appliance is started; else boot the point and copy from there.',
    cause,
  })

const diedTooOften = (starts: number): LifeboatError =>
  new LifeboatError('guest-lost', `the guest's filesystems ended ${starts} appliances that read them`, {
    hint: 'They are damaged or hostile: boot the point in a network of its own and copy from there, or take an older point.',
  })
