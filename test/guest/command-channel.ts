/**
 * What runs on a test guest's serial port: says READY when the guest is up, then takes one shell line after the other and
 * ends the answer with `RC=n`. Each line runs in a shell of its own, so that a line with a fault cannot end the channel.
 */
export const READY = 'READY boots'

/** `mountData` must not mind when there is no data disk; `poweroff` is what the guest does when it is asked to go. */
export const commandChannel = ({ mountData, poweroff }: { mountData: string; poweroff: string }): string => `#!/bin/sh
${mountData}
stty -echo
export TERM=dumb PAGER=cat SYSTEMD_PAGER=cat
dmesg -n 1
n=$(cat /var/boots 2>/dev/null || echo 0); n=$((n + 1)); echo $n > /var/boots; sync
echo "${READY} $n uptime $(cut -d' ' -f1 /proc/uptime)"
while read -r line; do
  case "$line" in
  poweroff) ${poweroff} ;;
  *) sh -c "$line" < /dev/null 2>&1; echo "RC=$?" ;;
  esac
done
exec sleep 999999
`
