import { exitCode } from './exit-code.ts'
import { runDirOf } from './run-dir.ts'
import { verb } from './verb.ts'

export const doctorCommand = verb({
  syntax: 'doctor',
  isQuery: true,
  description: 'Tell what this host can and cannot do, each with what to do about it.',
  examples: ['doctor', 'doctor --json'],
  async run(invocation) {
    const { output, signal, stateDir, cacheDir, surroundings } = invocation
    const { doctor } = await import('../recovery/doctor.ts')
    const checks = await doctor({ stateDir, cacheDir, runDir: runDirOf(invocation), clock: surroundings.clock, signal })
    output.result({ checks }, () => {
      const width = Math.max(...checks.map(({ name }) => name.length))
      for (const { name, status, found, advice } of checks) {
        output.line(`${status.padEnd(4)}  ${name.padEnd(width)}  ${found}`)
        if (advice) output.line(`      ${' '.repeat(width)}  -> ${advice}`)
      }
    })
    return checks.some(({ status }) => status === 'fail') ? exitCode.failed : exitCode.done
  },
})
