#!/usr/bin/busybox sh
# The emulated host, from its disk on: runs pytest with the words in /results/arguments, a line each, and what
# /results/environment exports; its output goes to the port "output", its exit code to /results/exit. Then it switches
# itself off.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb COLUMNS=110
export PYTHONPATH=/project/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DYNMEM_KVM_RIG=/rig
bb=/usr/bin/busybox
for place in /tmp /run /root /dev/shm; do
    $bb mkdir -p $place
    $bb mount -t tmpfs -o mode=1777 tmpfs $place
done
$bb mkdir -p /dev/pts
$bb mount -t devpts devpts /dev/pts
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
$bb ip link set lo up
for port in /sys/class/virtio-ports/*; do
    [ "$($bb cat "$port/name")" = output ] && output=/dev/${port##*/}
done
. /results/environment
set --
while IFS= read -r word; do
    set -- "$@" "$word"
done </results/arguments
echo "rig: tests begin after $($bb cut -d' ' -f1 /proc/uptime) s"
cd /project || $bb poweroff -f
python3 -m pytest "$@" >"$output" 2>&1 </dev/null
echo $? >/results/exit
echo "rig: tests ended after $($bb cut -d' ' -f1 /proc/uptime) s"
$bb sync
$bb poweroff -f
