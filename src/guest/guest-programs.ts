/** Who parses guests' filesystems: programs that the set-up builds from native/guest. */
import { fileURLToPath } from 'node:url'

export const AGENT_PROGRAM = fileURLToPath(new URL('../../build/lifeboat-agent', import.meta.url))

export const READER_PROGRAM = fileURLToPath(new URL('../../build/lifeboat-reader', import.meta.url))
