/** `session resume NAME`: whoever served it is gone; this process serves it from now on. */
import { bootPoint } from '../recovery/boot.ts'
import { knownSession } from '../recovery/session.ts'
import { serveBoot } from './boot.ts'
import { resumeExport } from './export-session.ts'
import type { Invocation } from './invocation.ts'
import type { LiveReadFlags } from './live-reads.ts'
import { nbdExporter } from './nbd-exporter.ts'
import { openToResume } from './resumed.ts'
import { commandsOf } from './session-exits.ts'
import { sessionPlace } from './session-place.ts'
import { parseBytes } from './units.ts'

export interface ResumeFlags extends LiveReadFlags {
  readonly reserve?: string
}

export async function resumeSession(asked: Invocation, name: string, flags: ResumeFlags): Promise<number> {
  const state = await knownSession(asked.stateDir, name)
  const invocation = asked.at(state.repository.url)
  await using opened = await openToResume(invocation, state, flags)
  if (state.kind === 'export') return await resumeExport(invocation, opened, state)
  const { output, signal, surroundings } = invocation
  await using running = await bootPoint({
    ...sessionPlace(invocation),
    repository: opened.repository,
    point: opened.point,
    session: name,
    resume: true,
    exporter: nbdExporter(surroundings.clock, output),
    cache: opened.cache,
    traces: opened.traces(state.point.vm),
    older: opened.older,
    figures: opened.figures,
    environment: surroundings.environment,
    tell: message => output.warning(message),
    commands: commandsOf(invocation),
    reserveBytes: flags.reserve === undefined ? undefined : parseBytes(flags.reserve, '--reserve'),
    signal,
  })
  return await serveBoot(invocation, running)
}
