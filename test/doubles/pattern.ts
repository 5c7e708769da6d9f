/** Bytes that look random, quickly made and the same every time: no run of zeros is longer than a few. */
export function patternBytes(length: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4))
  let word = seed >>> 0
  for (let i = 0; i < words.length; i++) {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0
    words[i] = word ^ (word >>> 16)
  }
  return Buffer.from(words.buffer, 0, length)
}
