/** Quoting on QEMU's command line. */

/** In option lists a comma ends a value; two commas are one in it. */
export const commaSafe = (value: string): string => value.replaceAll(',', ',,')

/** As JSON, where nothing needs quoting. */
export const blockdev = (node: Readonly<Record<string, unknown>>): string[] => ['-blockdev', JSON.stringify(node)]
