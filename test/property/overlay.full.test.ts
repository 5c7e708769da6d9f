/** The same with 3,000 seeds, about four minutes. SEEDS=10000 for more. */
process.env.SEEDS ??= '3000'
await import('./overlay.test.ts')
