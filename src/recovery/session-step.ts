/** What a session has just made durable or started, told on a channel: operators trace it, tests end the process there. */
import { channel } from 'node:diagnostics_channel'

const steps = channel('lifeboat:session-step')

export const step = (name: string): void => steps.publish(name)
