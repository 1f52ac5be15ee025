"""The unit under a real systemd, with all of its lines in force: what the manager needs is allowed."""

import json
from pathlib import Path

import pytest
from tests.rigs.systemd_host import needs_systemd, systemd_host

UNIT = Path(__file__).resolve().parent.parent.parent / "contrib" / "systemd" / "dynmem.service"
CONFIG = """
[host]
budget = "600MiB"
slush = "32MiB"
[manager]
mode = "observe"
status_socket = "/run/dynmem/status.sock"
[[vm]]
name = "web"
qmp = "/run/vm/web.qmp"
minimum = "64MiB"
maximum = "256MiB"
"""
QEMU = """
chown nobody /run/vm
setpriv --reuid nobody --clear-groups qemu-system-x86_64 -name web -nodefaults -no-user-config -S \
    -display none -accel tcg -m 64M -machine pc,memory-backend=m \
    -object memory-backend-memfd,id=m,size=64M,prealloc=on \
    -device virtio-balloon-pci -qmp unix:/run/vm/web.qmp,server=on,wait=off -daemonize
"""
MAIN = "systemctl show -p MainPID --value dynmem"


@pytest.mark.soak
@pytest.mark.qemu
@needs_systemd
def test_the_unit_starts_reloads_is_watched_and_manages_vms_of_other_users(tmp_path: Path) -> None:
    units = {"dynmem.service": UNIT.read_text().replace("WatchdogSec=60s", "WatchdogSec=3s")}
    units["dynmem-metrics.service"] = UNIT.with_name("dynmem-metrics.service").read_text()
    with systemd_host(tmp_path, units) as host:
        assert host.run("systemctl start dynmem; systemctl is-active dynmem").stdout.strip() == "inactive"
        host.says(f"cat > /etc/dynmem/config.toml <<EOT{CONFIG}EOT")
        host.says("systemctl start dynmem")  # it returns when the manager is ready
        assert host.says("systemctl is-active dynmem") == "active"
        host.until("systemctl show -p StatusText dynmem", "observe: 0 of 1 VMs are running; budget 600 MiB")
        status = host.says(f"cat /proc/$({MAIN})/status")
        assert "CapBnd:\t0000000000080006" in status  # three of root's capabilities
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status

        host.says(QEMU)
        host.until("systemctl show -p StatusText dynmem", "1 of 1 VMs are running")
        (vm,) = json.loads(host.says("dynmem status --json --socket /run/dynmem/status.sock"))["vms"]
        assert vm["run_state"] == "prelaunch"
        assert vm["resident_bytes"] == 64 << 20  # the memory of another user's process

        folder = "/var/lib/prometheus/node-exporter"
        host.says(f"mkdir -p {folder}; chown nobody {folder}; systemctl start dynmem-metrics")
        assert 'dynmem_vm_resident_bytes{vm="web"} 67108864' in host.says(f"cat {folder}/dynmem.prom")

        main = host.says(MAIN)
        host.says("sed -i 's/600MiB/500MiB/' /etc/dynmem/config.toml; systemctl reload dynmem")
        host.until("systemctl show -p StatusText dynmem", "budget 500 MiB")
        host.says("mkdir /etc/dynmem/config.d; echo '[host' > /etc/dynmem/config.d/x.toml")
        assert host.run("systemctl reload dynmem").returncode != 0
        host.says("rm /etc/dynmem/config.d/x.toml")
        assert host.says(MAIN) == main  # a wrong file ends nothing

        host.says(f"kill -STOP {main}")  # it hangs
        host.until(f"test $({MAIN}) != {main} && systemctl is-active dynmem", "active")
        host.until("systemctl show -p StatusText dynmem", "1 of 1 VMs are running")
        host.says("systemctl stop dynmem")
        assert host.says("systemctl show -p Result --value dynmem") == "success"
        assert host.run("test -e /run/dynmem/api.sock").returncode != 0

        drop_in = "/run/units/dynmem.service.d"
        host.says(f"mkdir {drop_in}; printf '[Service]\\nCapabilityBoundingSet=\\n' > {drop_in}/none.conf")
        host.says("systemctl daemon-reload; systemctl start dynmem")  # with none of the three capabilities
        host.until("systemctl show -p StatusText dynmem", "VMs are running")
        (vm,) = json.loads(host.says("dynmem status --json --socket /run/dynmem/status.sock"))["vms"]
        assert vm["resident_bytes"] is None
        assert "may not connect to the monitor" in vm["problem"]
