/** The same as nbd.test.ts, with more than a hundred thousand inputs. */
import { test } from 'node:test'
import { campaign } from './nbd-campaign.ts'

for (const [layer, device, count] of [
  ['plain', 'memory', 70_000],
  ['plain', 'slow', 15_000],
  ['inside TLS', 'memory', 8_000],
  ['inside TLS', 'slow', 2_000],
  ['instead of TLS', 'memory', 10_000],
] as const)
  test(`fuzz ${layer} over a ${device} device: ${count} inputs, nothing ends the server, leaks, or disturbs a good client`, t =>
    campaign(t, { layer, device, count }))
