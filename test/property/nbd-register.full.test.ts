import { registerTests } from './nbd-register.ts'

registerTests(1_000_002)
