/** The same with more than 10,000 power cuts. */
process.env.STORIES ??= '3000'
await import('./overlay-power-cuts.test.ts')
