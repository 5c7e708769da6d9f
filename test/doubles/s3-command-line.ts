/** The command line with a repository in a bucket of the S3 fake. */
import { systemClock } from '../../src/core/clock.ts'
import { type CommandLine, commandLine } from './command-line.ts'
import { type S3Fake, type S3FakeOptions, startS3Fake } from './s3-fake.ts'

export interface S3CommandLine extends AsyncDisposable {
  readonly cli: CommandLine
  readonly fake: S3Fake
}

/** `skew`: how far this host's clock is ahead of the store's; it may change. */
export async function overS3(
  bucket: NonNullable<S3FakeOptions['buckets']>[string],
  { skew = { byMs: 0 }, terminal = false } = {},
): Promise<S3CommandLine> {
  const fake = await startS3Fake({ buckets: { test: bucket } })
  const clock = { ...systemClock, now: () => new Date(Date.now() + skew.byMs) }
  const cli = commandLine(
    { AWS_ACCESS_KEY_ID: fake.credentials.accessKeyId, AWS_SECRET_ACCESS_KEY: fake.credentials.secretAccessKey },
    { clock, terminal },
  )
  cli.environment.LIFEBOAT_REPO = `s3://test/site?endpoint=${fake.endpoint}&region=us-east-1&path-style=true`
  cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
  return {
    cli,
    fake,
    async [Symbol.asyncDispose]() {
      await cli[Symbol.asyncDispose]()
      await fake[Symbol.asyncDispose]()
    },
  }
}
