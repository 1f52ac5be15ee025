#!/bin/busybox sh
# The first process of the emulated host: loads its drivers, mounts its disk and what this machine shares with it,
# and goes on as host_main on that disk.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /disk
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module" || echo "rig: $module was not loaded"
done
dmesg | grep "tsc:"
echo "rig: drivers loaded after $(cut -d' ' -f1 /proc/uptime) s"
mount -t ext4 -o ro,noatime /dev/vda /disk || poweroff -f
for share in project rig results; do
    case $share in results) how=rw,cache=none ;; *) how=ro,cache=loose ;; esac
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$how" "$share" "/disk/$share" || poweroff -f
done
for place in proc sys dev; do
    mount --move "/$place" "/disk/$place"
done
exec switch_root /disk /usr/sbin/host_main
