/** Waits for what other parts of this process do next; the test's own limit ends it if they never do. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 2))
}
