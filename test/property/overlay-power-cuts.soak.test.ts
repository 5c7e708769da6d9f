/** The same for hours, from another place each time. */
process.env.STORIES ??= '100000'
process.env.SEED ??= String(Math.floor(Date.now() / 1000))
await import('./overlay-power-cuts.test.ts')
