"""The unit of the web page under a real systemd, beside the manager's: what it may, and what it may not."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.systemd_host import SystemdHost, needs_systemd, systemd_host

UNITS = Path(__file__).resolve().parent.parent.parent / "contrib" / "systemd"
CONFIG = """
[host]
budget = "600MiB"
slush = "32MiB"
[[vm]]
name = "web"
qmp = "/run/vm/web.qmp"
minimum = "64MiB"
maximum = "256MiB"
"""
ASK = f"""{sys.executable} - <<EOT
import json, urllib.error, urllib.request
try:
    reply = urllib.request.urlopen("http://127.0.0.1:8737{{path}}", timeout=20)
except urllib.error.HTTPError as error:
    reply = error
print(reply.status, reply.read().decode())
EOT"""

# What docs/service.md says of drop-ins.
GROUP = """
[Service]
SupplementaryGroups=adm
"""
TOKEN = """
[Service]
BindReadOnlyPaths=/etc/dynmem/web-token
ExecStart=
ExecStart=/usr/bin/dynmem web --token-file /etc/dynmem/web-token
"""
STATUS_SOCKET = """
[manager]
status_socket = "/run/dynmem/status.sock"
status_group = "adm"
"""
ACT = f"""{sys.executable} - <<EOT
import urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8737/api/pause",
    b'{{"vm": "web", "for_s": 60}}',
    {{"Authorization": "Bearer correct-horse-battery", "Content-Type": "application/json"}},
)
print(urllib.request.urlopen(request, timeout=20).read().decode())
EOT"""


def asked(host: SystemdHost, path: str) -> tuple[int, Any]:
    """Ask the page for something."""
    status, _, body = host.says(ASK.format(path=path)).partition(" ")
    return int(status), json.loads(body)


@pytest.mark.soak
@needs_systemd
def test_the_page_runs_beside_the_manager_survives_it_and_sees_nothing_else(tmp_path: Path) -> None:
    # The tests' Python may be somebody's own.
    page = (UNITS / "dynmem-web.service").read_text().replace("ProtectHome=yes", "ProtectHome=no")
    units = {"dynmem.service": (UNITS / "dynmem.service").read_text(), "dynmem-web.service": page}
    with systemd_host(tmp_path, units) as host:
        host.says("ip link set lo up")
        host.says(f"cat > /etc/dynmem/config.toml <<EOT{CONFIG}EOT")
        host.says("mkdir -p /var/lib/dynmem")
        host.until("systemctl start dynmem-web && echo started", "started")  # before the manager
        status, reply = asked(host, "/api/status")
        assert (status, "no manager is running" in reply["error"]) == (503, True)
        host.says("systemctl start dynmem")
        host.until(ASK.format(path="/api/status"), '"mode":"observe"')
        host.until(ASK.format(path="/api/events"), '"started"')
        host.says("systemctl restart dynmem")
        host.until(ASK.format(path="/api/status"), '"mode":"observe"')
        host.says("systemctl stop dynmem")
        host.until(ASK.format(path="/api/status"), "503 ")
        assert asked(host, "/api/events")[0] == 200  # what was is there without a manager

        drop_in = "/run/units/dynmem{}.service.d"
        for unit, text in (("", GROUP), ("-web", TOKEN)):
            folder = drop_in.format(unit)
            host.says(f"mkdir {folder}; cat > {folder}/more.conf <<'EOT'{text}EOT")
        host.says(f"cat >> /etc/dynmem/config.toml <<EOT{STATUS_SOCKET}EOT")
        host.says("(umask 077; printf %s correct-horse-battery > /etc/dynmem/web-token)")
        host.says("systemctl daemon-reload; systemctl start dynmem; systemctl restart dynmem-web")
        assert host.says("stat -c '%G %a' /run/dynmem/status.sock") == "adm 660"
        assert json.loads(host.says(ACT))["paused"] == ["web"]

        main = host.says("systemctl show -p MainPID --value dynmem-web")
        status_file = host.says(f"cat /proc/{main}/status")
        assert "CapEff:\t0000000000000000" in status_file
        assert "CapBnd:\t0000000000000000" in status_file
        assert "Seccomp:\t2" in status_file
        seen = f"/proc/{main}/root"
        assert host.run(f"cat {seen}/etc/shadow").returncode != 0
        assert set(host.says(f"ls {seen}/run").split()) <= {"credentials", "dynmem", "systemd"}
        assert host.says(f"ls {seen}/var/lib") == "dynmem"
        host.says("systemctl stop dynmem-web")
        assert host.says("systemctl show -p Result --value dynmem-web") == "success"
