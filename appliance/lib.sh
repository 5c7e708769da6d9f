# What the scripts of the appliance share. Everything that comes from a guest's disk is data: quoted, never a word of the shell.
export PATH=/bin LC_ALL=C.UTF-8 TZ=UTC DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1

# One file for each volume, by its name: device, type, state, and of a Btrfs its members.
registry=/run/lifeboat/volumes
# What was said about them last.
told=/run/lifeboat/volumes.json

fail() { # status, message
  printf '%s\n' "$2" >&2
  exit "$1"
}

# Sets device, type, state and members of the volume $1.
read_volume() {
  case $1 in '' | */* | .*) fail 2 'there is no such volume' ;; esac
  [ -f "$registry/$1" ] || /lifeboat/volumes > /dev/null
  [ -f "$registry/$1" ] || fail 2 'there is no such volume'
  { IFS= read -r device; IFS= read -r type; IFS= read -r state; IFS= read -r members; } < "$registry/$1"
}

# What the kernel said last, for people.
kernel_said() { dmesg | tail -n 4 | sed 's/^<[0-9]*>//; s/^\[[^]]*\] *//' | tr '\n' ';' | head -c 600; }
