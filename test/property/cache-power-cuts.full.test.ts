/** The same with some thousand power cuts. */
process.env.STORIES ??= '500'
await import('./cache-power-cuts.test.ts')
