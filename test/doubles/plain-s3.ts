/** What somebody with the same keys and another program does to a bucket: makes it, overwrites, marks as deleted. */
import { CreateBucketCommand, DeleteObjectCommand, PutBucketVersioningCommand, S3Client } from '@aws-sdk/client-s3'

export interface S3Place {
  readonly endpoint: string
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
}

const plainClient = ({ endpoint, credentials }: S3Place): S3Client =>
  new S3Client({
    endpoint,
    credentials: { ...credentials },
    region: 'us-east-1',
    forcePathStyle: true,
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    logger: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
  })

/** A delete that names no version. */
export async function plainDelete(place: S3Place, Bucket: string, Key: string): Promise<void> {
  const client = plainClient(place)
  await client.send(new DeleteObjectCommand({ Bucket, Key }))
  client.destroy()
}

export async function makeBucket(
  place: S3Place,
  Bucket: string,
  { versioning = false, objectLock = false } = {},
): Promise<void> {
  const client = plainClient(place)
  await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: objectLock }))
  if (versioning && !objectLock)
    await client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: 'Enabled' } }))
  client.destroy()
}
