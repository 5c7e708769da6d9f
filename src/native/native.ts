/** The only loader of the .node file. */
import type { Pipeline } from './pipeline.ts'
import { twinPipeline } from './twin.ts'

export const loadPipeline = (): Pipeline => twinPipeline
