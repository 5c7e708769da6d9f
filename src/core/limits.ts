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
  /** A reader takes 255 characters; in bytes, the name is also one of an NBD export and, with its ending, nearly one of a file. */
  diskNameBytesMax: 255,

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
  /** The record of a GC run and the ledger of a renewal: about a million object keys. A run that has more to remove takes the rest next time. */
  runRecordMax: 64 * MiB,

  /** A mark of damage names up to 65,535 slots and contents of 20 bytes, in base64 1.75 MiB. */
  damageMarkMax: 4 * MiB,
  /** Points that a mark of damage names as harmed; the rest is found by verify. */
  damagePointsMax: 10_000,
  /** Points that a host remembers to have seen in one repository: a file of 15 MiB at the most. Older ones are no longer watched. */
  seenPointsMax: 100_000,
  seenFileMax: 64 * MiB,
  /** What an interrupted verify has proven: a bit a chunk, so that this is 100 TiB. */
  verifyProgressMax: 256 * MiB,
  /** What was read longer ago may have rotted since, so that it is read again. */
  verifyProgressLifeMs: 7 * 24 * 3_600_000,
  /** Contents that one backup looks out for to heal: 16 GiB of chunks in some 60 MiB. The rest is the next backup's. */
  healContentsMax: 2 ** 18,

  /** Ten years: in compliance mode nobody can take back a slip of the keyboard. */
  lockForMaxMs: 3653 * 24 * 3_600_000,
  /** Versions of one key that a reader tries, the oldest first: the first one is ours, whoever puts more on top of it. */
  versionsTriedMax: 8,
  /** Of which a reader remembers the version that is ours; then it asks again. */
  shadowedObjectsKept: 65_536,
  /** Ledgers of renewals that are kept; the newest counts. */
  ledgersKept: 8,
  /** Keys that a ledger names, for people; every writer reads the newest ledger, so it stays below a megabyte. */
  ledgerKeysMax: 10_000,

  scryptLogNMax: 20,
  scryptLogNDefault: 17,
  /** N x r: 1 GiB of memory. Slots lie in the clear, so that whoever writes to the store chooses these numbers. */
  scryptBlocksMax: 2 ** 23,
  /** N x r x p of all slots that one passphrase is tried on: 64 of the default cost, half a minute. Cheap slots come first. */
  scryptWorkMax: 2 ** 26,
  /** Objects directly below keys/ that are read to find a slot; a repository has a handful. */
  keySlotsMax: 256,
  /** What a key command or token makes of 32 bytes: a KMS adds some hundred. */
  keyBlobMax: 16 * KiB,
  /** What is kept of what a key command says. */
  keyCommandOutputMax: 64 * KiB,
  /** A KMS on another continent, with a retry. */
  keyCommandMs: 60_000,

  leaseRefreshMs: 10 * 60_000,
  leaseExpiryMs: 60 * 60_000,
  leaseExpiryMinMs: 5_000,
  /** After this a lease is fenced whatever it does. */
  leaseLifeMs: 7 * 24 * 3_600_000,
  pinExpiryMs: 7 * 24 * 3_600_000,
  /** Readers without the right to pin are safe for so long after a collection announced what it will remove. */
  gcGraceMs: 24 * 3_600_000,
  /** A manifest that was never committed waits so long for somebody who adopts it. */
  voidPointLifeMs: 30 * 24 * 3_600_000,
  /** A host's clock and the store's: NTP keeps them within a second, and S3 itself refuses requests at 15 minutes. */
  clockSkewMaxMs: 5 * 60_000,
  /** Points in one audit entry: about 100 KiB of keys. */
  auditPointsMax: 1000,
  /** Of one kind of period in a policy: eleven years of hours. */
  keepCountMax: 100_000,
  /** A reason is read in tables and messages. */
  holdReasonMax: 1000,

  /** Of all stored bytes: what a collection leaves of garbage because rewriting it would cost more than keeping it. By the next one it has grown to a tenth. */
  garbageShare: 0.09,

  /** Of 64 ids one is a hook in the index. */
  indexSampleMask: 63,
  dedupSegmentChunks: 1024,
  footerCacheCount: 16,

  /** Reads of one pack that are at most this far apart become one GET. */
  coalesceGapBytes: 64 * KiB,
  getBytesMax: 4 * MiB,
  getsInFlight: 16,
  /** Of all disks that a process reads, and the stored bytes of these GETs. Past either, a disk still has its share. */
  getsInFlightOfAll: 48,
  getBytesInFlight: 64 * MiB,
  getsInFlightShare: 4,
  /** What one GET may decode to: 4 MiB of chunks that shrank to nothing would be gigabytes. */
  getPlainBytesMax: 16 * MiB,
  /** Siblings in a meta pack that come along with a leaf, because the next read mostly wants them. */
  leavesPerGet: 4,
  /** Parsed nodes of one open disk. A leaf takes about 17 KiB with all references made: some 8 GiB of disk. */
  nodeCacheBytes: 32 * MiB,
  /** Rewritten objects of one pack that a reader looks into; each compaction of its survivors makes one. */
  rewrittenObjectsMax: 1024,
  putsInFlight: 4,
  /** Packs in memory while a backup writes: one fills, the others are on their way. With G12's 95 MiB for a capture, three of 17 MiB. */
  packBuffers: 3,
  /** Plain bytes that are digested, compared and deduplicated as one; two of these are in memory. */
  writeWindowBytes: 8 * MiB,
  /** At this many hooks (4 TiB of other data, 16 MiB of table) three of four are dropped: 16 TiB in as much memory. Then older indexes are left out. */
  dedupHooksMax: 2 ** 20,
  /** One read in this many recomputes the keyed id, which costs about as much as half of decoding. */
  idCheckOneIn: 64,

  /** The largest object that a store hands out whole: a pack at its bound. What claims to be larger is refused before allocation. */
  objectBytesMax: 288 * MiB,
  /** Names of one folder that a listing holds in memory at a time; a larger folder is scanned again for each further page. */
  folderPageNames: 65_536,
  /** lstat and unlink calls of one listing or delete under way at once; more only queue in the four threads of the pool. */
  fileCallsInFlight: 16,
  /** Folders that a directory store remembers as durable; beyond that it forgets and syncs them again. */
  durableFoldersMax: 8192,
  /** A temporary file this old has no writer any more; one that has notices at its rename and puts again. */
  leftoverAgeMs: 24 * 3_600_000,
  /** S3 allows 1,000 keys in one DeleteObjects and in one page of a listing. */
  s3BatchKeys: 1000,
  /** More than all readers and writers of one process use, so that no request waits for a socket (that wait counts against the connection time-out). */
  s3SocketsMax: 128,
  s3ConnectMs: 10_000,
  /** Silence on the socket, either way. A Ceph cluster that loses an OSD was seen to pause for 20 s. */
  s3IdleMs: 30_000,
  /** Of an answer's body, in each s3IdleMs: 48 GETs at once still get that on a line of 420 kbit/s; what trickles is asked for again. */
  s3BodyBytesMin: 32 * KiB,
  /** A whole request with its upload: 288 MiB at 4 Mbit/s. */
  s3RequestMs: 600_000,
  /** However often a store refuses, it is asked this often: a lease has to be refreshed. */
  storeRequestsPerSecondMin: 1,
  retryForMs: 60_000,
  retryFirstDelayMs: 100,
  retryDelayMaxMs: 5_000,

  /** Requests added by asking again for slow ones, of all; and how many of them in a row. */
  hedgeShare: 0.05,
  hedgesAtOnce: 4,
  /** Up to one in twenty may hang without hiding what is usual; half as long again is rare where nothing hangs (2 % of lognormal times). */
  hedgePercentile: 0.95,
  hedgeSlowFactor: 1.5,
  hedgeSlowMinMs: 20,
  /** Of GETs of like size, the last ones; the percentile is computed anew after each so many. Before the first time nothing is known. */
  hedgeSamples: 256,
  hedgeSamplesFirst: 32,
  hedgeUnmeasuredMs: 2_000,
  /** After a store has said that it is asked too much. */
  hedgeRestMs: 30_000,

  auditFraction: 0.01,

  /** query-qmp-schema takes 0.2 MiB, query-named-block-nodes about 1 KiB a node and bitmap. */
  qmpLineMax: 64 * MiB,
  /** QEMU greets in milliseconds; a socket that another client holds never does. */
  qmpGreetingMs: 3_000,
  /** `stop` waits for the guest's requests and a flush of all disks. */
  qmpCommandMs: 60_000,
  guestAgentLineMax: 4 * MiB,
  /** An agent that runs answers guest-sync in milliseconds. */
  guestAgentSyncMs: 5_000,
  /** Freezing waits for the guest's dirty pages; VSS gives up after 60 s. */
  guestAgentFreezeMs: 60_000,
  /** VSS thaws by itself after 10 s, and a frozen guest's clients give up soon after. */
  frozenMaxMs: 10_000,
  guestAgentThawTries: 5,
  /** The longest that a guest's write waits for its old contents to be copied, before the snapshot breaks instead. */
  cbwTimeoutSeconds: 15,
  /** Free space asked for before a capture: a sixteenth of the disks, within these bounds. What the guest overwrites meanwhile cannot be known. */
  fleecingFreeMin: 16 * MiB,
  fleecingFreeMax: 4 * GiB,
  fleecingWatchMs: 500,
  /** 8 GiB of chunks: a boot touches some hundred MiB. */
  traceTouchesMax: 131_072,
  /** Base64: at most eight bytes a touch, one or two as a rule. */
  traceBytesMax: 2 << 20,
  traceDisksMax: 256,
  /** From the first read on, at most; a guest has booted by then, or will not follow a trace of its boot. */
  traceMs: 300_000,
  /**
   * A boot is over when a minute has touched less than a MiB for the first time. Less than a minute would not do: on a busy host
   * an emulated guest was 49 seconds on its way from its boot loader to its root file system without a read.
   */
  traceCalmMs: 60_000,
  traceCalmSteps: 6,
  traceCalmTouches: 16,
  /** What a session waits for at its end so that its trace is stored. */
  traceStoreMs: 5_000,
  /** As measured by replaying boots at 10 ms a request: 1.03 of a local boot. */
  traceWindowTouches: 128,
  /** Together they leave a quarter of a disk's `getsInFlight` to the guest's own reads. */
  traceWindowsInFlight: 2,
  /** A guest whose reads always wait would never let a window in; then one at a time is begun, so long after the last one began, or twice as long as that one took. */
  traceYieldMs: 100,
  traceWindowGets: 6,
  /** How often a migration looks how far QEMU's copy has come. */
  migrationPollMs: 500,
  /** What an export writes while the last of it is copied, and refused, at most; more is caught up with first. */
  migrationLastBytes: 16 * MiB,
  /** A pivot waits for the writes that are under way to both sides. */
  migrationPivotMs: 300_000,
  /** Places where a migrated disk differs from its source that are looked at: more mean that all of it is wrong. */
  migrationDifferencesMax: 10_000,
  qemuNbdStartMs: 30_000,
  /** Dirty ranges kept in memory for one disk; above it, gaps are swallowed. */
  changeRangesMax: 1 << 20,
  bitmapGranularity: 64 * KiB,
  /** OVMF's variable stores take 128 to 528 KiB. */
  firmwareVariablesMax: 64 * MiB,

  /** Some clients send 48 MiB; 32 MiB is what the protocol lets a client expect, so that is what is advertised. */
  nbdPayloadMax: 64 * MiB,
  nbdPayloadAdvertised: 32 * MiB,
  /** The largest legal option without queries is a name and some numbers: about 4.2 KiB. */
  nbdOptionBytes: 64 * KiB,
  nbdMetaOptionBytes: 1 * MiB,
  nbdOptionsMax: 256,
  nbdHandshakeMs: 10_000,
  /** Connections that have chosen an export; those still haggling are counted apart, so that they cannot keep a good client out. */
  nbdConnectionsMax: 128,
  nbdHalfOpenMax: 2048,
  /** Descriptors that clients leave to the rest: 48 GETs and hedges over a store, files of the caches and overlays, a command; of few, half. */
  descriptorsKept: 192,
  /** Option payloads of all connections that are still haggling. */
  nbdHandshakeBytesMax: 16 * MiB,
  nbdRequestsInFlight: 128,
  /** What is given to the encryption at once: it copies all of it twice. Eight records; twice as much is no faster. */
  nbdTlsWriteBytes: 128 * KiB,
  /** Certificates, keys and permissions: the longest real ones are lists of revoked certificates. */
  tlsFileMax: 4 * MiB,
  /** Replies and write payloads that a client has caused and not yet taken. Past it, its socket is no longer read. */
  nbdBytesInFlightPerConnection: 32 * MiB,
  /** Of all connections; one request above the per-connection bound may be under way besides: 48 + 64 + shares < 128 MiB. */
  nbdBytesInFlight: 48 * MiB,
  /** What a connection with nothing in flight always gets, so that others cannot starve it. */
  nbdBytesShare: 256 * KiB,
  /** A client that takes none of its pending replies for so long loses its connection, which gives its bytes back. */
  nbdStalledMs: 120_000,
  /** The same while another connection waits for those bytes. */
  nbdStalledWantedMs: 10_000,
  /** Extents in one BLOCK_STATUS reply; QEMU stops at 128 Ki, the protocol at 2^20. */
  nbdExtentsMax: 65_536,
  /** Contexts that one connection may select: each BLOCK_STATUS answers for all of them. */
  nbdContextsMax: 64,
  /** Names in one answer to LIST_META_CONTEXT; where more match, wildcards stand for them. */
  nbdContextsListed: 256,
  /** Up to here a payload is copied into the batch; above, it is written from where it lies. Measured in bench/. */
  nbdCopyMax: 32 * KiB,
  nbdInputBytes: 256 * KiB,
  nbdOutputBytes: 256 * KiB,
  /** Pieces in which a large read leaves in structured mode. */
  nbdPieceBytes: 1 * MiB,

  /** Blocks of 4 KiB that one batch of an overlay takes: 4 MiB, so that a large write does not keep small ones waiting. */
  overlayBatchBlocks: 1024,
  /** Up to here a batch is written in the turn that brought it: 512 KiB into the page cache take less than handing them to another thread and back. */
  overlayBlocksNow: 128,
  /**
   * A write into the page cache that takes longer has been made to wait: several in a row by the disk, for so long the next ones
   * get a thread; a single one by others who wanted the processor, and threads would only make that worse.
   */
  overlayStallMs: 8,
  overlayStallsInRow: 3,
  overlayStallCoolMs: 1_000,
  /** Of the page map: one page tells of 2 MiB of disk. Kept when clean, 32 MiB. */
  overlayPagesKept: 8_192,
  /** Changed pages, 64 MiB, at which a map is stored; at twice as many writes wait for it. */
  overlayPagesDirty: 16_384,
  overlayPagesPerRead: 256,
  /** 500,000 writes of 4 KiB: replayed in half a second. At this size a map is stored. */
  overlayJournalBytes: 8 * MiB,
  /** Maps may fail to be stored for lack of space while the journal goes on; what is larger is not one of ours. */
  overlayJournalMax: 1 * GiB,
  overlayJournalReserve: 256 * KiB,
  /** 72 MiB for a TiB written as scattered blocks. */
  overlayMapMax: 1 * GiB,
  /** After a map could not be stored. */
  overlayMapRetryMs: 2_000,
  /** What is reserved ahead of the writes, and what is kept of space that is free again. */
  overlayReserve: 16 * MiB,
  overlaySpaceKept: 16 * MiB,
  /** Slots that wait for a sync before they can be used again: at 64 MiB one is begun. */
  overlayFreedSlots: 16_384,

  /**
   * First read-ahead window of a sequential reader, and the largest: four 1 MiB GETs of typical chunks. With 2, and 3 neighbours
   * of each chunk that is missed, a boot of Debian waits a quarter less often than with a first window of 4 and no neighbours, for 3 % more chunks.
   */
  readAheadChunksFirst: 2,
  readAheadChunksMax: 64,
  /** With chunks of 4 MiB a window of 64 would be 256 MiB; it is cut to this. */
  readAheadWindowBytes: 16 * MiB,
  readAheadBytesInFlight: 32 * MiB,
  readAheadStreams: 16,
  /** Behind a chunk that is missed; it pays while one in three is read. At random places a reader wastes the credit, 4 MiB, and no more. */
  neighbourChunks: 3,
  /** Of larger chunks fewer. */
  neighbourBytes: 256 * KiB,
  neighbourWorth: 3,
  neighbourCredit: 64,
  /** Those that are watched for a reader who comes back. A disk read at random hits them by chance: with these once in 64 reads of a GiB. */
  neighboursForeseen: 256,
  /** A window ahead of so few chunks comes in the GET of the chunk that was missed: 100 KiB more, so a fraction of a round trip. */
  readAlongChunks: 4,
  /** Chunks of a disk whose cache keys are at hand: 4 GiB of it at 64 KiB a chunk, in some 4 MiB of memory when all have been read. A power of two. */
  knownKeys: 65_536,
  /** Records of so small a GET are opened one by one, not in one batch: what was missed and what came along. Each is a job of some 50 us more. */
  openedAlone: 5,
  /** What a client that wants a range at hand makes one disk fetch at once. */
  prefetchBytes: 4 * MiB,

  /** Of the cache on local disk, all processes together: the working set of some hundred boots, at 60 MiB stored each. */
  diskCacheBytesDefault: 8 * GiB,
  /** A few segments. */
  diskCacheBytesMin: 4 * MiB,
  /** The cache leaves so much of its disk free, or a sixteenth of a smaller disk: a guest's overlay may lie beside it, and is paused at 2 GiB. */
  diskCacheFreeMax: 4 * GiB,
  diskCacheFreeShare: 16,
  /** A cache is about so many segments, within these sizes: what an eviction takes at once, and what one file can be. */
  diskCacheSegmentsUsual: 64,
  diskCacheSegmentMin: 256 * KiB,
  diskCacheSegmentMax: 64 * MiB,
  /** An entry in a segment's index for each so many bytes; records of 64 KiB chunks have about 25 KiB. */
  diskCacheRecordBytesUsual: 4 * KiB,
  /** Records that one process knows to be kept: 27 GiB of usual ones in a table of 40 MiB at the most. The oldest are left out. */
  diskCacheEntriesMax: 2 ** 20,
  /** Waiting to be written; more is not kept, so that a slow disk costs neither memory nor time. */
  diskCacheQueueBytes: 16 * MiB,
  /** One write, and one read of records that lie together. */
  diskCacheWriteBytes: 1 * MiB,
  diskCacheGapBytes: 16 * KiB,
  diskCacheRunRecords: 128,
  diskCacheIndexPieceBytes: 64 * KiB,
  /** A process may have 1,024, and some have 64; opening one again takes 50 us. */
  diskCacheFilesOpen: 16,
  diskCacheCallsInFlight: 4,
  /** After a write that failed. */
  diskCacheRestMs: 60_000,
  /** What other processes have added is looked for after a miss, not more often than this. */
  diskCacheRefreshMs: 2_000,
  diskCacheAttendMs: 30_000,
  /** A segment's time of use is at most so wrong; each update is a write to the file's inode. */
  diskCacheTouchMs: 60_000,
  /** Chunks located at once for extents: a level of leaves, not a disk. */
  extentsChunksAtOnce: 4096,

  /** A restore asks for batches x bytes at once and holds them as they are stored; as plain bytes only where it compares with what is there. Four keep 16 GETs of 1 MiB busy at 2.6:1. */
  restoreBatchBytes: 16 * MiB,
  restoreBatchesInFlight: 4,
  /** GETs of a hydration under way while no read of the guest waits; otherwise one, so that a guest that never rests delays it and does not end it. */
  hydrateGets: 6,
  /** Plain bytes of one of these GETs: together 48 MiB, whatever the chunks shrank to. */
  hydrateGetPlainBytes: 8 * MiB,
  /** Pages of a local copy (256 chunks each) whose missing chunks are asked for in the order of the store: 512 MiB of a disk. */
  hydrateWindowPages: 32,
  /** Pages in memory, 10 KiB each: 8 GiB of a disk. */
  hydratePagesKept: 512,
  /** After so many bytes a hydration makes durable what it has. What was copied since the last time is read and checked after a crash. */
  hydrateCheckpointBytes: 1 * GiB,
  /** What guests have fetched and the local copy has yet to write; more is not copied now, so that a slow disk costs neither memory nor time. */
  hydrateQueueBytes: 32 * MiB,
  /** Reads of a local copy under way for one read of a guest. */
  hydrateReadsInFlight: 8,
  /** How often a hydration looks whether it may go on: for the guest's reads, and for space. */
  hydrateYieldMs: 50,
  hydrateSpaceMs: 1_000,
  /** After a store or a disk that failed. */
  hydrateRestMs: 10_000,
  /** The mark of a hydration: the manifest, and 8 bytes for 16 MiB of each disk. */
  hydrateMarkMax: 512 * MiB,
  /** A session file describes some hundred disks at most. */
  sessionFileMax: 4 * MiB,
  /** How old the figures of a running session may be in its state file, each time an fsync. */
  sessionFiguresMs: 2_000,
  /** sun_path is 108 bytes with its terminating zero. */
  socketPathMax: 107,
  /** A guest that KVM really runs passes the probe in 0.1 s; a loaded host may need ten times that. */
  kvmProbeMs: 5_000,
  /** QEMU stores its bitmaps when it is told to end; a terabyte overlay has about 2 MiB of them. */
  qemuStopMs: 60_000,
  /** How soon the end of a QEMU that is not our child is seen. */
  qemuPollMs: 250,
  /** What a session keeps of QEMU's complaints before it cuts them. */
  qemuLogMax: 1 * MiB,
  /** How often a guest and the space below its overlays are looked at: at 1 GB/s it fills half of the reserve in between. */
  guestWatchMs: 1_000,
  /** Free below the overlays of a booted VM, or it is paused. */
  sessionReserveBytes: 2 * GiB,
  /** Requests to a session's control socket are a few words. */
  sessionRequestMax: 64 * KiB,
  /** Lines from a session: `show` of some hundred disks. */
  sessionReplyMax: 4 * MiB,
  sessionRequestMs: 10_000,
  /** From the state 'running' to the control socket are some milliseconds, or a checkpoint of the disk that both lie on. */
  sessionConnectMs: 10_000,
  sessionClientsMax: 16,
  /** Emulated firmware reaches the boot sector in 1 to 5 s on a loaded host. */
  firstReadMs: 120_000,

  /** Volumes of a guest that a path is looked for in at once: each may be a filesystem to be opened. */
  volumesLookedInto: 4,
  /** Directories and files of one directory that are looked at ahead of who walks a tree: what a slow store takes for one it then takes for all. */
  directoriesAhead: 16,
  /** Manifests that are fetched ahead of who looks into point after point. */
  manifestsAhead: 8,
  /** A key for a volume of a guest: BitLocker's recovery key has 55 letters, a LUKS key file of more than this is unheard of; with its request it fits into 64 KiB. */
  guestKeyBytesMax: 32 * KiB,

  /** The appliance's memory as it sees it: LUKS2 may ask for a GiB to try one key. What it has not used, and has given back, costs this host nothing. */
  applianceMemoryBytes: 1536 * MiB,
  /** What the appliance keeps of what its agent reads, and the agent itself. */
  applianceCacheBytes: 384 * MiB,
  /** What it may write beside one disk: a journal of ext4 has up to 1 GiB, of XFS up to 2. */
  applianceOverlayBytes: 4 * GiB,
  /** PCI functions that are left for disks. */
  applianceDisksMax: 192,
  /** From its start to its agent's first word: 7 s when emulated on a quiet machine, 16 s on a loaded one. */
  applianceStartMs: 120_000,
  /** Who parses a guest ends by itself some moments after its connection, and says why; who hangs is killed after that. */
  guestLastWordsMs: 5_000,
  /** Starts of one appliance that the disks of one point may cost, after each of which it was killed or ended by itself. */
  applianceStartsMax: 5,

  /** A mount lists the points anew when somebody looks and the last listing is older: with what the kernel remembers, a new point is seen within 20 s. */
  mountListMs: 10_000,
  /** Who looks waits so long for a listing; then what was known is shown, and the listing goes on. */
  mountListPatienceMs: 5_000,
  /** Holds are put by hand, and each is a request. */
  mountHoldsMs: 60_000,
  /** What is kept of manifests that were looked at: a thousand of usual ones. */
  mountManifestBytes: 8 * MiB,
  /** Manifests that are read ahead of somebody who walks from point to point. */
  mountManifestsAhead: 16,
  /** Each open point has a pin, and up to 32 MiB of tree nodes a disk that was read much of. */
  mountPointsOpen: 64,
  mountPointIdleMs: 60_000,
  /** Each may have an appliance, with its memory. Starting one takes seconds, so one stays while somebody may come back. */
  mountGuestsOpen: 6,
  mountGuestIdleMs: 120_000,

  /** Requests to who parses a guest's filesystems that are under way: twice what an agent works on at once. */
  guestRequestsInFlight: 32,
  /** The store has given up before, so that its error is told; whoever is silent for longer hangs. */
  guestRequestMs: 120_000,
  /** Mounting replays a journal, unlocking derives a key, both in an emulated machine. */
  guestMountMs: 300_000,
  /** One request, one reply, one piece of a file: of docs/guest-protocol.md. */
  guestRequestBytesMax: 64 * KiB,
  guestReplyBytesMax: 1 * MiB + 64 * KiB,
  guestReadBytes: 1 * MiB,
  guestNodeBytesMax: 128,
  guestFailureTextMax: 4096,
  guestVolumesMax: 4096,
  /** PATH_MAX: no Linux filesystem has a longer target. */
  guestLinkBytesMax: 4096,
  /** Extended attributes of one file: 256 of the largest. */
  guestXattrBytesMax: 16 * MiB,
  /** Entries of one directory: a loop on a disk must not list for ever. */
  guestEntriesMax: 16 * 1024 * 1024,
  /** Nodes kept with the listings of their directories, some 500 bytes each. The kernel of who mounts it keeps them too. */
  guestEntriesKept: 32_768,
  guestXattrBytesKept: 4 * MiB,
  /** What is read of files ahead of their readers, of one connection and of one reader. */
  guestReadAheadBytes: 24 * MiB,
  guestReadAheadPieces: 8,
  /** A killed agent on this host ends at once, unless its kernel waits for the disk: then it is unmounted below it. */
  guestKernelEndMs: 3_000,
  /** Address space of the process that reads a guest's filesystems without a VM: 32 MiB of blocks, 64 of directories, 150 of stacks, the tables of large filesystems four times. */
  guestReaderMemoryBytes: 864 * MiB,
  /** Of a processor, in all: a mount that is listed all day takes minutes. */
  guestReaderCpuSeconds: 3600,
  /** Of one request, without what it waits for the disk: the largest directory takes a few seconds. */
  guestReaderComputeMs: 30_000,
  /** Reads of the disks for it: its sixteen threads ask for a MiB each, rarely for more. What waits is more than it ever asks for. */
  guestReaderBlocksInFlight: 16,
  guestReaderBlocksWaiting: 1024,
  /** Processes that one guest may cost before it is given up. */
  guestReaderStarts: 8,

  /** What a walk, a restore or a tar says of problems one by one; the rest is counted. */
  fileProblemsListed: 10_000,
  /** In one walk: more than any file server has, and an end to directories that contain each other by other names. */
  walkEntriesMax: 2 ** 28,
  /** In one directory, remembered to notice a name that comes twice: some 150 MiB at the most. */
  walkNamesMax: 2 ** 20,
  /** 4,096 bytes of a path, in names of 15 bytes. A restore holds a descriptor for each. */
  walkDepthMax: 256,
  /** Listings begun before they are needed, at each depth: a listing over a store is a round trip. */
  walkListsAhead: 16,
  /** Listings under way at which none is begun for what is two directories off. */
  walkListsRunning: 32,
  /** Entries of such listings that wait in memory: some 30 MiB. */
  walkEntriesAhead: 65_536,
  /** Of one pattern of names, its braces written out. */
  globAlternativesMax: 64,
  globLengthMax: 4096,
  /** Of one reply to READDIR: what the kernel asks for at most when it reads ahead in a large directory. */
  fuseListingBytes: 256 * KiB,
  /** Of one read: 256 pages, which is all that fs.fuse.max_pages_limit allows by default. */
  fuseReadPages: 256,
  /** Reads that the kernel has under way for its own read-ahead: 12 would leave a store with 50 ms idle. */
  fuseBackgroundMax: 64,
  /** Memory of reads that wait for the store; further ones wait for it. */
  fuseReadBytes: 64 * MiB,
  /** What the kernel may remember of a node that never changes. */
  fuseFrozenSeconds: 365 * 24 * 3600,
  /** And of any other: so late are new points seen. */
  fuseLiveSeconds: 1,
  /** Between a signal to somebody who waits for the mount and EINTR for him: a store's answer comes in less, a person waits for it. */
  fuseInterruptMs: 1_000,
  /** Within this everybody who asks a mount has an answer, if only EIO: longer than a store is asked again, and than an appliance starts. */
  fuseAnswerMs: 15 * 60_000,
  /** fusermount3 and the kernel's first request take some milliseconds. */
  fuseMountMs: 30_000,
  /** From an unmount to the kernel's word that nothing of it is left. */
  fuseUnmountMs: 2_000,
  /** As large as one read is. */
  fuseReadAheadBytes: 1 * MiB,
  /** Requests that are taken up before what has come meanwhile from elsewhere has its turn. */
  fuseRequestsPerTurn: 32,
  /** Files of a restore or a tar under way at once; over a store each costs some round trips. A descriptor each. */
  copyFilesInFlight: 32,
  /** One read of contents, and how many of one file and of all: 32 MiB of memory. The protocol to a guest's reader gives a MiB at most. */
  copyReadBytes: 1 * MiB,
  copyReadsPerFile: 16,
  copyReadsInFlight: 32,
  /** Files up to here are read without asking where their holes are: that would cost as much. */
  copySmallBytes: 64 * KiB,
  /** Files with several names whose first name was made already, by their key: some 20 MiB. Others are looked for on the disk. */
  linkedFilesRemembered: 100_000,
  /** Pieces of data between the holes of one file in a tar: a map of 20 MiB. */
  tarPiecesMax: 2 ** 20,
  /** Headers and small files of a tar that go out as one write. */
  tarWriteBytes: 256 * KiB,
} as const
