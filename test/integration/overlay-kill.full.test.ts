/** The same 100 times. */
process.env.ROUNDS ??= '100'
await import('./overlay-kill.test.ts')
