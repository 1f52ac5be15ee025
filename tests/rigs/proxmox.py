"""Proxmox's files and its command `qm`, as far as taking a VM over needs them.

The files are written as Proxmox writes them: keys in order, snapshots below. The stand-in `qm` changes
`shares` in them, and writes down what it was called with; `fail` makes it refuse as for a locked VM.
"""

import sys
from pathlib import Path

CONF = """\
agent: 1
balloon: 2048
boot: order=scsi0;net0
cores: 2
memory: 8192
meta: creation-qemu=10.1.2,ctime=1764115200
name: shop
net0: virtio=BC:24:11:2E:C5:4A,bridge=vmbr0,firewall=1
numa: 0
ostype: l26
parent: before
scsi0: local-lvm:vm-104-disk-0,iothread=1,size=32G
scsihw: virtio-scsi-single
{shares}smbios1: uuid=0f8fad5b-d9cb-469f-a165-70867728950e
sockets: 1
vmgenid: 7c9e6679-7425-40de-944b-e07fc1f90ae7

[before]
#a snapshot
balloon: 1024
memory: 4096
shares: 7777
snaptime: 1764115300
"""
_QM = """#!{python} -IS
import sys
from pathlib import Path
here = Path({folder!r})
with (here / "qm.log").open("a") as log:
    print(*sys.argv[1:], file=log)
if (here / "fail").exists():
    sys.exit("VM is locked (backup)")
if (here / "hang").exists():
    import time
    time.sleep(600)
_, number, option, value = sys.argv[1:]
conf = here / "qemu-server" / (number + ".conf")
lines = conf.read_text().splitlines()
end = next((i for i, line in enumerate(lines) if line.startswith("[")), len(lines))
kept = [line for line in lines[:end] if not line.startswith("shares:")]
if option == "--shares":
    kept.insert(0, "shares: " + value)
new = conf.with_suffix(".tmp")
new.write_text("\\n".join(kept + lines[end:]) + "\\n")
new.replace(conf)
print("update VM " + number + ": " + option + " " + value)
"""


class ProxmoxHost:
    """A folder with VM 104 and a `qm` that changes it."""

    def __init__(self, folder: Path, shares: int | None = 2000) -> None:
        self._folder = folder
        self.files = folder / "qemu-server"
        self.files.mkdir()
        self.conf = self.files / "104.conf"
        self.conf.write_text(CONF.format(shares="" if shares is None else f"shares: {shares}\n"))
        self.qm = folder / "qm"
        self.qm.write_text(_QM.format(python=sys.executable, folder=str(folder)))
        self.qm.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """What `qm` was called with."""
        log = self._folder / "qm.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def shares(self) -> str | None:
        """What the file says before the snapshots."""
        lines = self.conf.read_text().split("\n[")[0].splitlines()
        return next((line.partition(": ")[2] for line in lines if line.startswith("shares:")), None)

    def switch(self, name: str, *, on: bool) -> None:
        """Switch a fault of `qm`: "fail" or "hang"."""
        (self._folder / name).touch() if on else (self._folder / name).unlink()
