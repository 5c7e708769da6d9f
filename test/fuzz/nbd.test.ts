/** Random bytes and random sequences of nearly right messages against the server, which must outlive and bound them all. */
import { test } from 'node:test'
import { campaign } from './nbd-campaign.ts'

for (const [layer, device, count] of [
  ['plain', 'memory', 1500],
  ['plain', 'slow', 500],
  ['inside TLS', 'memory', 200],
  ['instead of TLS', 'memory', 500],
] as const)
  test(`fuzz ${layer} over a ${device} device: nothing ends the server, leaks, or disturbs a good client`, t =>
    campaign(t, { layer, device, count }))
