import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { runCommand } from './run-command.mjs'
import { SetupError, say } from './say.mjs'

/** As its binding.gyp has them. */
const SOURCES = ['dl.cpp', 'common.cpp', 'main.cpp']

/** The npm package pkcs11js, compiled here with the headers that npm brought: its own installation would fetch them from elsewhere. */
export async function buildTokenAddon(root) {
  const folder = join(root, 'node_modules', 'pkcs11js')
  const built = join(folder, 'build', 'Release', 'pkcs11.node')
  if (!existsSync(folder) || existsSync(built)) return
  say('compiling the access to PKCS#11 tokens')
  mkdirSync(join(folder, 'build', 'Release'), { recursive: true })
  const { code, output } = await runCommand(
    process.env.CXX || 'g++',
    [
      ...['-std=c++17', '-O2', '-fPIC', '-shared', '-DNAPI_DISABLE_CPP_EXCEPTIONS', '-DNODE_GYP_MODULE_NAME=pkcs11'],
      `-I${join(root, 'node_modules', 'node-api-headers', 'include')}`,
      `-I${join(folder, 'includes')}`,
      ...SOURCES.map(name => join(folder, 'src', name)),
      ...['-o', `${built}.new`],
    ],
    { cwd: root },
  )
  if (code !== 0) throw new SetupError(`The access to PKCS#11 tokens did not compile:\n\n${output.trim()}`)
  renameSync(`${built}.new`, built)
}
