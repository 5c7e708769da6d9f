/**
 * A volume that Windows encrypted with BitLocker, which nothing on Linux can make: cryptsetup's own tests carry some, and
 * Debian's source package has them. 12 MB are fetched, 140 KiB are kept.
 */
import { join } from 'node:path'
import { cached, sourceOf } from './recipe-cache.ts'
import { shell } from './tool.ts'

export const BITLOCKER_PASSPHRASE = 'anaconda'

export async function bitlockerImage(): Promise<string> {
  const folder = await cached('bitlocker', [sourceOf(import.meta.url)], async into => {
    await shell(FETCH, into)
  })
  return join(folder, 'bitlk-aes-xts-128.img')
}

/** With lists of our own: a machine seldom has those of sources. */
const FETCH = `
cd "$1"
mkdir -p lists/partial
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 'Origin: Debian' |
  sort -u > sources
set -- -q -o Dir::State::lists="$1/lists" -o Dir::Etc::sourcelist="$1/sources" -o Dir::Etc::sourceparts=/dev/null \\
  -o APT::Sandbox::User= -o Acquire::Languages=none
apt-get "$@" update
apt-get "$@" source --download-only cryptsetup
tar -xOf cryptsetup_*.orig.tar.* --wildcards '*/tests/bitlk-images.tar.xz' |
  tar -xJS --no-same-owner --strip-components=1 bitlk-images/bitlk-aes-xts-128.img
rm -rf lists sources cryptsetup_*
`
