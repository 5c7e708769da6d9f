/** What native/addon.cc exports. Arguments are checked by the callers here, and against memory faults again there. */
export interface Addon {
  readonly version: number
  digestChunks(
    source: Uint8Array,
    chunkSize: number,
    idKey: Uint8Array,
    ids: Uint8Array,
    zero: Uint8Array,
  ): Promise<number>
  /** SHA-256 of each unit of `source`; `digests` has 32 bytes for each. */
  digestUnits(source: Uint8Array, unit: number, digests: Uint8Array): Promise<number>
  /** For tests: at most so many messages are hashed at once (16, 8 or 0) from now on. Gives what is used. */
  limitLanes(most: number): number
  compressChunks(
    source: Uint8Array,
    chunkSize: number,
    indexes: Uint32Array,
    target: Uint8Array,
    targetOffset: number,
    lengths: Uint32Array,
  ): Promise<number>
  sealChunks(
    body: Uint8Array,
    lengths: Uint32Array,
    firstSlot: number,
    ids: Uint8Array,
    key: Uint8Array,
    aadPrefix: Uint8Array,
  ): Promise<number>
  /** `buffers`: stored and target in turn. `places`: slot u32 | id | key | AAD prefix of each. -1, or 8 x position + fault. */
  openChunks(buffers: readonly Uint8Array[], places: Uint8Array): Promise<number>
  /**
   * `places` as above. `counts`: how many of the offsets each record has. `checks`: 1 where its id is computed anew.
   * -1, 8 x position + fault, or -1 - errno.
   */
  writeChunks(
    fd: number,
    chunkSize: number,
    end: number,
    idKey: Uint8Array,
    stored: readonly Uint8Array[],
    places: Uint8Array,
    counts: Uint32Array,
    checks: Uint8Array,
    offsets: Float64Array,
  ): Promise<number>
  /** The offset, or -errno. */
  seekFile(fd: number, offset: number, kind: 0 | 1): Promise<number>
  /** 0, or errno. */
  allocateFile(fd: number, offset: number, length: number, kind: 0 | 1): Promise<number>
  /**
   * Writes each part, whole blocks of 4 KiB, at its position; `checks` gets the low half of XXH3-64 of each block. Then puts
   * the XXH3-64 of the record's other bytes into its first 8 and writes it to `log`; an empty record is none. 0, or errno.
   * With `now` 1 on this thread.
   */
  writeBlocks(
    fd: number,
    parts: readonly Uint8Array[],
    checks: Uint32Array,
    positions: Float64Array,
    log: number,
    record: Uint8Array,
    recordPosition: number,
    now: 0 | 1,
  ): Promise<number> | number
  /** Fills each part; `checks` are those of what was read. 0, or errno: ENODATA where the file ends too early. */
  readBlocks(fd: number, parts: readonly Uint8Array[], checks: Uint32Array, positions: Float64Array): Promise<number>
  /** flock(LOCK_EX | LOCK_NB): 0, or errno. */
  lockFile(fd: number): number
  /** Two connected Unix sockets, or -errno. */
  socketPair(): readonly [number, number] | number
  /** The descriptor that the peer of a socket sends, or -errno. */
  receiveDescriptor(socket: number, timeoutMs: number): Promise<number>
  /** Makes it non-blocking and calls back whenever it can be read; -errno if that cannot be. */
  watchDescriptor(fd: number, callback: () => void): Watch | number
  /** Once; the descriptor may be closed afterwards. */
  unwatchDescriptor(watch: Watch): void
  /** At once, on this thread: the bytes read, or -errno. */
  readDevice(fd: number, target: Uint8Array): number
  /** At once, on this thread, the parts (260 at most) as one message: 0, or errno. */
  writeDevice(fd: number, parts: readonly Uint8Array[]): number
  /** Of what the path names itself, if it is a link too. 0, or -errno, as of all below. */
  setFileXattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): Promise<number>
  /** Fills `target` with u32 length, name, u32 length, value of each. The bytes used, or -errno: -ERANGE where they do not fit. */
  readFileXattrs(path: Uint8Array, target: Uint8Array): Promise<number>
  /** Seconds i64, nanoseconds i64 of the last access, then of the last change. */
  setFileTimes(path: Uint8Array, times: Uint8Array): Promise<number>
  makeSpecialFile(path: Uint8Array, mode: number, major: number, minor: number): Promise<number>
  /**
   * `descriptor`: 0, or 1 + that of the part, which then has its contents. `dress`: u32 owner, group, mode, 1 to replace what is there, then
   * the times as above. `xattrs` as of readFileXattrs. 0, or 4096 x step (1 contents, 2 attributes, 3 name) + errno.
   */
  placeFile(
    part: Uint8Array,
    contents: Uint8Array,
    descriptor: number,
    dress: Uint8Array,
    xattrs: Uint8Array,
    path: Uint8Array,
  ): Promise<number>
  renameToNew(from: Uint8Array, to: Uint8Array): Promise<number>
}

declare const watch: unique symbol
/** A descriptor that is being watched; of the addon. */
export interface Watch {
  readonly [watch]: true
}
