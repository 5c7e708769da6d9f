/** The same with some thousand power cuts. */
process.env.STORIES ??= '300'
await import('./cache-power-cuts.test.ts')
