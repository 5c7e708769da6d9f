/** Small worlds: what is stored at the start, and who does what. Contents, packs, points and writers go by short names. */

export interface WriterPlan {
  /** The point to build upon: one of the start, or that of another writer ('M1'). */
  readonly base?: string
  /** Its disk holds what this point holds as well, all of which it reads anew. */
  readonly like?: string
  /** Contents that are stored already, or were. */
  readonly reuse?: readonly string[]
  /** The answer to the PUT of its manifest may be lost, and the PUT may land later. */
  readonly isAmbiguous?: boolean
}

export interface Configuration {
  readonly name: string
  /** Contents of each pack, slot by slot. 'H.a' is a rewritten object of pack H. */
  readonly packs: Readonly<Record<string, readonly string[]>>
  /** Contents of each point; whatever no point names is garbage from the start. */
  readonly points: Readonly<Record<string, readonly string[]>>
  /** W1 writes point M1, and so on. */
  /** Verify could not read X's only leaf and its first chunk for a while, and has marked both. */
  readonly isMarked?: boolean
  readonly writers?: readonly WriterPlan[]
  readonly collectors?: number
  readonly forgets?: readonly string[]
  readonly exports?: readonly string[]
}

/** One slot of three is alive: worth compacting. */
const A = ['a0', 'a1', 'a2']
const X = { X: ['a0'] }
const LIVE = { A: ['a0'] }
const AND_DEAD = { A: ['a0'], G: ['g0'] }

/** Those of the exhaustive search of the protocol (but un-forgetting, which there is not), and larger ones. */
export const configurations: readonly Configuration[] = [
  {
    name: 'c1',
    packs: AND_DEAD,
    points: X,
    writers: [{ reuse: ['g0', 'a0'] }],
    collectors: 1,
    forgets: ['X'],
  },
  { name: 'c2', packs: LIVE, points: X, writers: [{ base: 'X' }], collectors: 1, forgets: ['X'], exports: ['X'] },
  {
    name: 'c3',
    packs: LIVE,
    points: {},
    writers: [{ reuse: ['a0'] }, { base: 'M1' }],
    collectors: 1,
    forgets: ['M1'],
  },
  {
    name: 'c4',
    packs: AND_DEAD,
    points: X,
    writers: [{ base: 'X', reuse: ['g0'] }],
    collectors: 2,
    forgets: ['X'],
  },
  { name: 'c5', packs: { A }, points: X, writers: [{ reuse: ['a1'] }], collectors: 1, exports: ['X'] },
  { name: 'c6', packs: { A }, points: X, writers: [{ reuse: ['a1'] }], collectors: 2 },
  {
    name: 'c7',
    packs: { 'H.a': ['h0', 'h1', 'h2'], 'H.b': ['h0', 'h1'] },
    points: { X: ['h0', 'h1'] },
    collectors: 2,
    exports: ['X'],
  },
  { name: 'c8', packs: { G: ['g0'] }, points: {}, writers: [{ reuse: ['g0'] }], collectors: 1, exports: ['M1'] },
  {
    name: 'c10',
    packs: { A },
    points: X,
    writers: [{ reuse: ['a1'] }, { base: 'X' }],
    collectors: 1,
    forgets: ['X'],
  },
  {
    name: 'c11',
    packs: AND_DEAD,
    points: X,
    writers: [{ reuse: ['g0'] }, { base: 'X' }],
    collectors: 2,
    forgets: ['X'],
  },
  {
    // The point that nobody touches lies between the names of others, so that listings in pages may pass them by.
    name: 'c12',
    packs: { ...LIVE, Y: ['y0'] },
    points: { Y: ['y0'] },
    writers: [{ reuse: ['a0'] }, { base: 'M1' }],
    collectors: 2,
    forgets: ['M1'],
  },
  {
    name: 'c13',
    packs: LIVE,
    points: X,
    writers: [{ reuse: ['a0'], isAmbiguous: true }],
    collectors: 1,
    forgets: ['X'],
  },
  { name: 'c14', packs: {}, points: {}, writers: [{ isAmbiguous: true }], collectors: 2 },
  {
    name: 'h1',
    packs: LIVE,
    points: X,
    isMarked: true,
    writers: [{ like: 'X' }],
    collectors: 2,
    forgets: ['M1'],
    exports: ['X'],
  },
  {
    name: 'b1',
    packs: { A, G: ['g0'], 'H.a': ['h0', 'h1'], 'H.b': ['h0'] },
    points: { X: ['a0', 'h0'], Y: ['a1', 'h1'] },
    writers: [
      { base: 'X', reuse: ['g0', 'h1'] },
      { base: 'Y', reuse: ['g0', 'a1'] },
      { base: 'M1', reuse: ['a0'], isAmbiguous: true },
    ],
    collectors: 2,
    forgets: ['X', 'Y', 'M1'],
    exports: ['X', 'M1'],
  },
  {
    name: 'b2',
    packs: { A, G: ['g0', 'g1'] },
    points: { X: ['a0'], Y: ['a1'] },
    writers: [
      { base: 'X', reuse: ['g0', 'a1'] },
      { base: 'M1', reuse: ['g1'] },
    ],
    collectors: 3,
    forgets: ['X', 'Y', 'M1'],
    exports: ['Y', 'M2'],
  },
]
