/** A KMS behind a program of the host's: COMMAND wrap and COMMAND unwrap turn what they read from stdin into what they write to stdout. */
import { LifeboatError } from '../core/errors.ts'
import { type KeyProgram, runKeyProgram } from './key-program.ts'
import type { KeptCredential, KeyPlace } from './keys.ts'

export function commandKey(program: KeyProgram, label: string): KeptCredential {
  // For a KMS that binds what it wraps to a context; both ids are checked hex.
  const at = ({ repository, slot }: KeyPlace): KeyProgram => ({
    ...program,
    environment: { ...program.environment, LIFEBOAT_KEY_CONTEXT: `${repository}/${slot}` },
  })
  return {
    kind: 'command',
    label,
    keeper: {
      wrap: (secret, place, options) => runKeyProgram(at(place), ['wrap'], secret, options),
      async unwrap(blob, place, options) {
        const secret = await runKeyProgram(at(place), ['unwrap'], blob, options)
        if (secret.length === 32) return secret
        throw new LifeboatError(
          'key-unavailable',
          `The key command gave ${secret.length} bytes where 32 were wrapped`,
          {
            hint: 'It must write exactly the bytes that it was once given to wrap, without a line end.',
          },
        )
      },
    },
  }
}
