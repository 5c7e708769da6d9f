const ZEROS = new Uint8Array(64 * 1024)

/** Whether all bytes are zero. memcmp in steps stops at the first step that differs; data mostly differs in its first bytes. */
export function isZero(bytes: Uint8Array): boolean {
  if (bytes.length === 0) return true
  if (bytes[0] !== 0 || bytes[bytes.length - 1] !== 0) return false
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const step = bytes.subarray(at, at + ZEROS.length)
    if (Buffer.compare(step, step.length === ZEROS.length ? ZEROS : ZEROS.subarray(0, step.length)) !== 0) return false
  }
  return true
}
