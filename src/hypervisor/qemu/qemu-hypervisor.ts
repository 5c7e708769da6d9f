/** A running QEMU guest, reached through its QMP socket. */
import type { Clock } from '../../core/clock.ts'
import type { Random } from '../../core/random.ts'
import type { Hypervisor } from '../hypervisor.ts'
import { captureVm } from './capture.ts'
import type { Guard } from './capture-guard.ts'
import type { QmpTrace } from './qmp.ts'
import type { MethodChoice } from './switch-over.ts'

export interface QemuSettings {
  /** Path of the QMP Unix socket, for Lifeboat alone while a capture lives. */
  readonly qmp: string
  /** Path of the guest agent's Unix socket. Without it points are crash-consistent. */
  readonly guestAgent?: string
  readonly clock: Clock
  readonly random: Random
  /** What a person should hear of although the backup goes on. */
  readonly log?: (message: string) => void
  readonly trace?: QmpTrace
  readonly method?: MethodChoice
  /** Free bytes asked for under the fleecing folder; by default a share of the disks (core/limits.ts). */
  readonly fleecingFreeMin?: number
  readonly greetingTimeoutMs?: number
  /** Who cleans up when this process is killed; by default a process of its own. */
  readonly guard?: Guard
}

export const qemuHypervisor = (settings: QemuSettings): Hypervisor => ({
  capture: request => captureVm(settings, request),
  async [Symbol.asyncDispose]() {},
})
