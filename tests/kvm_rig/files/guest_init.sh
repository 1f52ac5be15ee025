#!/bin/busybox sh
# The first process of a stock guest: loads the drivers that rig.drivers= on the kernel's command line names (hyperv,
# virtio or no; hyperv without it), and then runs what comes on the serial port: a number and a command, on one line.
# After what the command writes comes a line "rig: NUMBER EXIT-CODE"; numbers keep a late answer apart from the next.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=100% tmpfs /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
drivers=hyperv
for word in $(cat /proc/cmdline); do
    case $word in rig.drivers=*) drivers=${word#*=} ;; esac
done
for module in /modules/*.ko; do
    parameters=
    case $module in
        *virtio*) kind=virtio ;;
        *hv_balloon*) kind=hyperv parameters=pressure_report_delay=1 ;;
        *) kind=hyperv ;;
    esac
    [ $kind = "$drivers" ] || continue
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
