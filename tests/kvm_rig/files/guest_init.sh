#!/bin/busybox sh
# The first process of a stock guest: loads the Hyper-V drivers (not with rig.drivers=no on the kernel's command
# line), and then runs what comes on the serial port: a number and a command, on one line. After what the command
# writes comes a line "rig: NUMBER EXIT-CODE"; numbers keep a late answer apart from the next one.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=100% tmpfs /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
grep -q rig.drivers=no /proc/cmdline || for module in /modules/*.ko; do
    case $module in *hv_balloon*) parameters=pressure_report_delay=1 ;; *) parameters= ;; esac
    insmod "$module" $parameters || echo "rig: $module was not loaded"
done
dmesg -n 1
echo "rig: ready $(uname -r)"
while :; do
    IFS=' ' read -r number command || sleep 1
    [ -n "$number" ] || continue
    (eval "$command") </dev/null
    code=$?
    echo
    echo "rig: $number $code"
done
