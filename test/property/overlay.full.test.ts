/** The same with 10,000 seeds. */
process.env.SEEDS ??= '10000'
await import('./overlay.test.ts')
