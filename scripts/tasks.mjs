/**
 * What `npm run TASK` needs and runs. Plain JavaScript without dependencies: Debian 12's Node 18 reads it before anything
 * is installed.
 */

/** Each group of Debian packages with the reason that is shown to the person who is asked to have them installed. */
export const PACKAGE_GROUPS = {
  addon: {
    why: 'to compile the native addon',
    packages: {
      'g++': '/usr/bin/g++',
      'libzstd-dev': '/usr/include/zstd.h',
      'libext2fs-dev': '/usr/include/ext2fs/ext2fs.h',
      'libtsk-dev': '/usr/include/tsk/libtsk.h',
      'comerr-dev': '/usr/include/com_err.h',
      'zlib1g-dev': '/usr/include/zlib.h',
    },
  },
  guest: {
    why: 'to build and run the small virtual machine',
    packages: {
      'qemu-system-x86': '/usr/bin/qemu-system-x86_64',
      'qemu-utils': '/usr/bin/qemu-img',
      'busybox-static': '/bin/busybox',
      cpio: '/usr/bin/cpio',
      kmod: '/sbin/modprobe',
      zstd: '/usr/bin/zstd',
      gdisk: '/sbin/sgdisk',
      e2fsprogs: '/sbin/mkfs.ext4',
      'grub-common': '/usr/bin/grub-mkimage',
      'grub-pc-bin': '/usr/lib/grub/i386-pc/boot.img',
    },
  },
  peers: {
    why: 'to test against other NBD programs',
    packages: { nbdkit: '/usr/sbin/nbdkit', 'libnbd-bin': '/usr/bin/nbdinfo', fio: '/usr/bin/fio' },
  },
  uefi: {
    why: 'to boot a guest with UEFI firmware',
    packages: {
      ovmf: '/usr/share/OVMF/OVMF_CODE_4M.fd',
      mtools: '/usr/bin/mformat',
      'grub-efi-amd64-bin': '/usr/lib/grub/x86_64-efi/modinfo.sh',
    },
  },
  units: {
    why: 'to check the units for systemd',
    packages: { systemd: '/bin/systemd-analyze' },
  },
  hsm: {
    why: 'to test keys in a PKCS#11 token',
    packages: { softhsm2: '/usr/lib/softhsm/libsofthsm2.so' },
  },
  debian: {
    why: 'to build the Debian guest, and the NBD programs of a newer Debian to test against',
    packages: { mmdebstrap: '/usr/bin/mmdebstrap' },
  },
  filesystems: {
    why: 'to make the disks that guests have: every filesystem and volume layout',
    packages: {
      xfsprogs: '/sbin/mkfs.xfs',
      'btrfs-progs': '/bin/btrfs',
      'ntfs-3g': '/bin/ntfs-3g',
      dosfstools: '/sbin/mkfs.vfat',
      exfatprogs: '/sbin/mkfs.exfat',
      'exfat-fuse': '/sbin/mount.exfat-fuse',
      psmisc: '/usr/bin/fuser',
      xorriso: '/usr/bin/xorriso',
      lvm2: '/sbin/lvm',
      mdadm: '/sbin/mdadm',
      'cryptsetup-bin': '/sbin/cryptsetup',
      attr: '/usr/bin/setfattr',
    },
  },
  mount: {
    why: 'to mount, and to look at mounts from other programs',
    packages: { fuse3: '/usr/bin/fusermount3', python3: '/usr/bin/python3' },
  },
  ceph: {
    why: 'to test against a real object store',
    packages: {
      'ceph-mon': '/usr/bin/ceph-mon',
      'ceph-mgr': '/usr/bin/ceph-mgr',
      'ceph-osd': '/usr/bin/ceph-osd',
      radosgw: '/usr/bin/radosgw',
      'ceph-common': '/usr/bin/ceph',
    },
  },
  rivals: {
    why: 'to compare figures with other programs',
    packages: {
      restic: '/usr/bin/restic',
      fuse3: '/usr/bin/fusermount3',
      libfuse2: '/usr/lib/x86_64-linux-gnu/libfuse.so.2',
    },
  },
}

/** @type {Record<string, { says: string, groups: string[], addon: boolean, run: string[] }>} */
export const TASKS = {
  demo: {
    says: 'back up a running VM and boot it from the backup',
    groups: ['addon', 'guest', 'mount'],
    addon: true,
    run: ['scripts/demo.ts'],
  },
  test: {
    says: 'run the tests',
    groups: ['addon', 'guest', 'peers', 'mount', 'hsm', 'units'],
    addon: true,
    run: ['scripts/test.ts', 'ordinary'],
  },
  'test:full': {
    says: 'run the slow tests',
    groups: ['addon', 'guest', 'peers', 'mount', 'uefi', 'debian', 'filesystems', 'ceph'],
    addon: true,
    run: ['scripts/test.ts', 'full'],
  },
  soak: {
    says: 'run the tests that take hours',
    groups: ['addon', 'guest', 'peers'],
    addon: true,
    run: ['scripts/test.ts', 'soak'],
  },
  bench: { says: 'measure', groups: ['addon', 'guest', 'peers', 'rivals'], addon: true, run: ['bench/run.ts'] },
  build: { says: 'compile to dist/', groups: ['addon'], addon: true, run: ['scripts/build.ts'] },
  lint: { says: 'check format and style', groups: [], addon: false, run: ['scripts/check.ts', 'lint'] },
  check: {
    says: 'check types, style, imports and unused code',
    groups: [],
    addon: false,
    run: ['scripts/check.ts', 'all'],
  },
}

/** Some arguments need more than the task itself. */
export function groupsFor(task, args) {
  const groups = [...TASKS[task].groups]
  if (task === 'demo' && args.includes('--debian')) groups.push('debian')
  return groups
}
