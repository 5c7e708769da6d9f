/** One kind line for the person who waits. It goes to stderr, so that a task's own output stays clean. */
export function say(text) {
  process.stderr.write(`lifeboat set-up: ${text}\n`)
}

/** Something that only the person can put right: the message says what to do. Ends the program with exit code 2. */
export class SetupError extends Error {}
