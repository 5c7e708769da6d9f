/**
 * Run by hand after `npm install` changed package-lock.json. A registry that does not carry the binaries of other platforms
 * makes npm leave them out of the lockfile, and `npm ci` of npm 11 then refuses it. This adds what is missing: version and
 * platform, so that they count as known and are skipped here. Plain JavaScript, no dependencies.
 */
import { readFileSync, writeFileSync } from 'node:fs'

const FILE = new URL('../package-lock.json', import.meta.url)
const OS = /(android|darwin|freebsd|linux|openharmony|sunos|win32)/
const CPU = /(arm64|x64|ia32|riscv64|ppc64|s390x|loong64|wasm32|arm)/

const lock = JSON.parse(readFileSync(FILE, 'utf8'))
const missing = {}
for (const { optionalDependencies = {}, dev } of Object.values(lock.packages))
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const place = `node_modules/${name}`
    if (lock.packages[place]) continue
    const [, os] = OS.exec(name) ?? []
    const [, cpu] = CPU.exec(name.slice(name.indexOf('/'))) ?? []
    if (!os || !cpu || !/^\d/.test(version))
      throw new Error(`${name}@${version} is missing and is for no platform known here`)
    const libc = os !== 'linux' ? {} : { libc: [name.includes('musl') ? 'musl' : 'glibc'] }
    missing[place] = { version, cpu: [cpu], ...(dev ? { dev: true } : {}), ...libc, optional: true, os: [os] }
  }
const sorted = Object.entries({ ...lock.packages, ...missing }).sort(([a], [b]) => (a < b ? -1 : 1))
lock.packages = Object.fromEntries(sorted)
writeFileSync(FILE, `${JSON.stringify(lock, null, 2)}\n`)
process.stdout.write(`${Object.keys(missing).length} packages of other platforms added\n`)
