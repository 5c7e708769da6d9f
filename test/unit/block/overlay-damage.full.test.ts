/** The same with a thousand random bits of each file, and each byte of its ends. */
process.env.LOTS = '1000'
await import('./overlay-damage.test.ts')
