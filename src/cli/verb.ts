/** A verb builds its commander command; its action runs with an Invocation and ends in an exit code. */
import { Command } from 'commander'
import { exitCode } from './exit-code.ts'
import { type GlobalFlags, Invocation, type Surroundings } from './invocation.ts'

export type Verb = (surroundings: Surroundings, exit: (code: number) => void) => Command

export interface VerbDefinition<Flags> {
  /** 'restore <point>' in commander's notation. */
  readonly syntax: string
  readonly description: string
  /** One or more command lines, without the leading 'lifeboat'. */
  readonly examples: readonly string[]
  readonly options?: (command: Command) => void
  /** Only shows what is there: its few requests are not worth a line. */
  readonly isQuery?: boolean
  /** Gives its result when its work begins, and goes on until it is stopped. */
  readonly isServer?: boolean
  /** Gives an exit code, or nothing for 0. */
  readonly run: (
    invocation: Invocation,
    words: readonly string[],
    flags: Flags & GlobalFlags,
  ) => Promise<number | undefined>
}

export const verb =
  <Flags>(definition: VerbDefinition<Flags>): Verb =>
  (surroundings, exit) => {
    const [name = '', ...syntax] = definition.syntax.split(' ')
    const command = new Command(name)
    for (const argument of syntax) command.argument(argument)
    command.description(definition.description)
    definition.options?.(command)
    command.configureOutput({
      writeOut: text => surroundings.stdout.write(text),
      writeErr: text => surroundings.stderr.write(text),
      // What was wrong with the words is told by main.ts, like every other failure.
      outputError: () => {},
    })
    const title = definition.examples.length === 1 ? 'Example' : 'Examples'
    command.addHelpText('after', `\n${title}:\n${definition.examples.map(line => `  lifeboat ${line}`).join('\n')}`)
    command.action(async () => {
      const flags: Flags & GlobalFlags = command.optsWithGlobals()
      const words = command.args
      const invocation = await Invocation.of(surroundings, flags)
      exit((await definition.run(invocation, words, flags)) ?? exitCode.done)
      if (!definition.isQuery) invocation.output.closing({ always: definition.isServer })
    })
    return command
  }
