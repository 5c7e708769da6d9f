/** All versions and delete markers of a bucket, page by page, checked like a listing of objects. */
import { ListObjectVersionsCommand, type ListObjectVersionsCommandOutput, type S3Client } from '@aws-sdk/client-s3'
import { limits } from '../core/limits.ts'
import { compareKeys } from './key-order.ts'
import { incomplete, type S3Listing } from './s3-list.ts'
import type { ObjectVersion } from './versioned-store.ts'

/** Entries with the keys of the bucket. */
export async function* listBucketVersions(client: S3Client, listing: S3Listing): AsyncGenerator<ObjectVersion[]> {
  const { bucket, prefix, startAfter, signal } = listing
  let marker: { KeyMarker?: string; VersionIdMarker?: string } = { KeyMarker: startAfter || undefined }
  let last = ''
  for (;;) {
    const page = await client.send(
      new ListObjectVersionsCommand({ Bucket: bucket, Prefix: prefix, MaxKeys: limits.s3BatchKeys, ...marker }),
      { abortSignal: signal },
    )
    const entries = parsePage(page, prefix, last)
    last = entries.at(-1)?.key ?? last
    // Ceph begins with the marker's own key, Amazon behind it.
    yield startAfter === '' ? entries : entries.filter(({ key }) => compareKeys(key, startAfter) > 0)
    if (!page.IsTruncated) return
    const { NextKeyMarker, NextVersionIdMarker } = page
    if (!NextKeyMarker || (NextKeyMarker === marker.KeyMarker && NextVersionIdMarker === marker.VersionIdMarker))
      throw incomplete('it does not say where the next one begins')
    marker = { KeyMarker: NextKeyMarker, VersionIdMarker: NextVersionIdMarker }
  }
}

function parsePage(page: ListObjectVersionsCommandOutput, prefix: string, after: string): ObjectVersion[] {
  if (page.IsTruncated === undefined) throw incomplete('it does not say whether it is the last one')
  const versions = (page.Versions ?? []).map(version => parseEntry(version, prefix))
  const markers = (page.DeleteMarkers ?? []).map(marker => parseEntry({ ...marker, Size: undefined }, prefix))
  const entries = merge(versions, markers)
  let last = after
  for (const { key } of entries) {
    if (last !== '' && compareKeys(key, last) < 0) throw incomplete(`the key ${key.slice(0, 80)} is out of order`)
    last = key
  }
  return entries
}

interface Entry {
  readonly Key?: string
  readonly VersionId?: string
  /** Undefined: a delete marker. */
  readonly Size?: number
  readonly LastModified?: Date
  readonly IsLatest?: boolean
}

function parseEntry({ Key, VersionId, Size, LastModified, IsLatest }: Entry, prefix: string): ObjectVersion {
  if (Key === undefined || VersionId === undefined || LastModified === undefined || IsLatest === undefined)
    throw incomplete('an entry lacks a field')
  if (!Key.startsWith(prefix)) throw incomplete(`the key ${Key.slice(0, 80)} was not asked for`)
  const isDeleteMarker = Size === undefined
  return {
    key: Key,
    versionId: VersionId,
    size: Size ?? 0,
    modifiedAt: LastModified,
    isLatest: IsLatest,
    isDeleteMarker,
  }
}

/** The SDK hands versions and markers apart, each in order. Of two of one key and one instant the marker comes first. */
function merge(versions: readonly ObjectVersion[], markers: readonly ObjectVersion[]): ObjectVersion[] {
  const merged: ObjectVersion[] = []
  let at = 0
  for (const marker of markers) {
    while (at < versions.length && precedes(versions[at]!, marker)) merged.push(versions[at++]!)
    merged.push(marker)
  }
  return [...merged, ...versions.slice(at)]
}

function precedes(version: ObjectVersion, marker: ObjectVersion): boolean {
  const order = compareKeys(version.key, marker.key)
  if (order !== 0) return order < 0
  if (version.isLatest || marker.isLatest) return version.isLatest
  return version.modifiedAt > marker.modifiedAt
}
