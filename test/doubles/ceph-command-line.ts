/** The command line with a repository in a bucket of the Ceph cluster, reached through a chaos proxy. */
import { type BucketKind, ceph, cephBucket, cephStore } from './ceph.ts'
import { type ChaosOptions, type ChaosProxy, startChaosProxy } from './chaos-proxy.ts'
import { type Answer, type CommandLine, commandLine } from './command-line.ts'

export interface CephCommandLine extends AsyncDisposable {
  readonly proxy: ChaosProxy
  readonly bucket: string
  /** Fails unless the command succeeds. */
  lifeboat(words: string): Promise<Answer>
  /** As it comes out. */
  readonly cli: CommandLine
  /** What the bucket holds, past the proxy. */
  keys(): Promise<string[]>
}

export async function cephCommandLine(
  kind: BucketKind,
  draw?: ChaosOptions['draw'],
  retryFor = '240s',
): Promise<CephCommandLine> {
  const cleanup = new AsyncDisposableStack()
  const { endpoint, credentials } = await ceph()
  const bucket = await cephBucket(kind)
  const proxy = cleanup.use(await startChaosProxy({ upstream: endpoint, draw }))
  const cli = cleanup.use(
    commandLine({
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      LIFEBOAT_REPO: `s3://${bucket}/vms?endpoint=${proxy.endpoint}`,
    }),
  )
  cli.environment.LIFEBOAT_KEY_FILE = cli.at('key')
  return {
    proxy,
    bucket,
    cli,
    async lifeboat(words) {
      const answer = await cli.json(`--retry-for ${retryFor} ${words}`)
      if (answer.code !== 0) throw new Error(`${words}: exit code ${answer.code}: ${answer.stdout}${answer.stderr}`)
      return answer
    },
    async keys() {
      const store = await cephStore(bucket)
      try {
        return (await Array.fromAsync(store.list(''))).map(({ key }) => key)
      } finally {
        await store[Symbol.asyncDispose]()
      }
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  }
}
