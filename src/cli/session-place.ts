import type { SessionPlace } from '../recovery/session.ts'
import type { Invocation } from './invocation.ts'
import { runDirOf } from './run-dir.ts'

export const sessionPlace = (invocation: Invocation): SessionPlace => ({
  stateDir: invocation.stateDir,
  runDir: runDirOf(invocation),
  clock: invocation.surroundings.clock,
  random: invocation.surroundings.random,
})
