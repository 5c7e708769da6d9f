/** Every bound in one place, with its reason. Numbers read from a store or a peer are compared with these before anything is allocated. */
export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB

export const limits = {
  /** Measured on real images: a full costs 2.5-4.4 % more than at 256 KiB, a scattered increment 3.5x less. */
  chunkSizeDefault: 64 * KiB,
  chunkSizeMin: 4 * KiB,
  chunkSizeMax: 4 * MiB,
  /** Disks to 2^56 in the format; this implementation counts in doubles, which are exact to 2^53 - 1. */
  diskSizeMax: 2 ** 53 - 1,
  disksPerPointMax: 256,

  /** Small enough to upload in one PUT and to buffer, large enough that requests do not dominate. */
  packTargetBytes: 16 * MiB,
  packSlotsMax: 65_535,
  packPlaintextMax: 256 * MiB,
  /** 256 MiB of incompressible plaintext plus 65,535 x 20 bytes, the footer and the checksums. */
  packObjectMax: 288 * MiB,
  /** 65,535 rows x 41 bytes + salt and tag. */
  packFooterMax: 3 * MiB,

  leafWidth: 64,
  nodeWidth: 256,
  manifestEntriesMax: 4096,
  /** A node of 256 entries takes about 9 KiB; 4,096 entries of a manifest with the worst runs about 350 KiB. */
  nodeBytesMax: 1 * MiB,
  manifestBytesMax: 128 * MiB,
  /** config, keys, leases, pins and marks are small JSON documents. */
  controlObjectMax: 1 * MiB,
  indexObjectMax: 64 * MiB,

  scryptLogNMax: 20,
  scryptLogNDefault: 17,

  leaseRefreshMs: 10 * 60_000,
  leaseExpiryMs: 60 * 60_000,
  leaseExpiryMinMs: 5_000,
  /** After this a lease is fenced whatever it does. */
  leaseLifeMs: 7 * 24 * 3_600_000,
  pinExpiryMs: 7 * 24 * 3_600_000,

  /** Of 64 ids one is a hook in the index. */
  indexSampleMask: 63,
  dedupSegmentChunks: 1024,
  footerCacheCount: 16,

  /** Reads of one pack that are at most this far apart become one GET. */
  coalesceGapBytes: 64 * KiB,
  getBytesMax: 4 * MiB,
  getsInFlight: 16,
  putsInFlight: 4,
  /** One read in this many recomputes the keyed id, which costs about as much as half of decoding. */
  idCheckOneIn: 64,

  auditFraction: 0.01,
} as const
