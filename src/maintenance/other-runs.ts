/** Records of other collections. They may overlap; a person wants to know. */
import { isIntegrityError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { MaintenanceContext } from './maintenance.ts'

export interface OtherRun {
  readonly key: string
  /** Absent where the record cannot be read. */
  readonly who?: string
  readonly when?: string
}

export async function readOtherRuns(
  { control }: Pick<MaintenanceContext, 'control'>,
  options: AbortOptions,
): Promise<readonly OtherRun[]> {
  const runs: OtherRun[] = []
  for await (const key of control.list('gc', options))
    try {
      const record = await control.get('gc', key, options)
      if (record) runs.push({ key, who: record.text('who'), when: record.text('when') })
    } catch (error) {
      if (!isIntegrityError(error)) throw error
      runs.push({ key })
    }
  return runs
}
