"""What is said of changes that the manager would make and does not send: in observe and in advise mode.

In advise mode each line ends with the command that an operator would type to make the change:

    the VM is run by                      command
    libvirt, a balloon that libvirt has   virsh setmem NAME 1048576KiB --live
    libvirt, another balloon              virsh qemu-monitor-command NAME '{"execute": "balloon", ...}'
    Proxmox                               echo 'balloon 1024' | qm monitor NUMBER
    nobody that is known                  {"execute": "balloon", ...}, for a monitor of the operator's own

    libvirt, virtio-mem                   virsh update-memory-device NAME --alias ID --requested-size NKiB
    Proxmox, virtio-mem                   echo 'qom-set PATH requested-size 2147483648' | qm monitor NUMBER
    nobody that is known, virtio-mem      {"execute": "qom-set", ...}

A change that differs little from what was said last is not said again, unless the VM has come there since.
"""

import json
import shlex
from collections.abc import Iterable
from typing import Final

from dynmem.manager.step.changes import Change
from dynmem.manager.step.chatter import Chatter
from dynmem.manager.step.facts import VIRTIO_BALLOON, Mode, VmFacts
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import band_pages
from dynmem.units import KIB, MIB, PAGE_SIZE

# Pages in the unit of QEMU's human monitor.
_UNIT: Final = MIB // PAGE_SIZE


def command_for(change: Change) -> str:
    """Return what an operator would type to make a change."""
    facts, parts = change.record.facts, change.parts
    commands = [] if parts is None else [_request(facts, *each) for each in parts.requests]
    own = change.target * PAGE_SIZE if parts is None else parts.balloon_bytes
    if own is not None and (not commands or own != facts.balloon_bytes):
        commands.append(_balloon(facts, own))
    return (" " if facts.owner is None else " && ").join(commands)


def _balloon(facts: VmFacts, size: int) -> str:
    qmp = json.dumps({"execute": "balloon", "arguments": {"value": size}})
    if facts.owner is None:
        return qmp
    name = shlex.quote(facts.owner.name)
    if facts.owner.kind == "proxmox":
        # In whole MiB: no VM is asked to give more than was decided, and slush covers the rest.
        return f"echo 'balloon {-(-size // MIB)}' | qm monitor {name}"
    if facts.device == VIRTIO_BALLOON:
        return f"virsh setmem {name} {size // KIB}KiB --live"
    return f"virsh qemu-monitor-command {name} {shlex.quote(qmp)}"


def _request(facts: VmFacts, path: str, size: int) -> str:
    arguments = {"path": path, "property": "requested-size", "value": size}
    qmp = json.dumps({"execute": "qom-set", "arguments": arguments})
    if facts.owner is None:
        return qmp
    name = shlex.quote(facts.owner.name)
    if facts.owner.kind == "proxmox":
        return f"echo {shlex.quote(f'qom-set {path} requested-size {size}')} | qm monitor {name}"
    alias = shlex.quote(path.rpartition("/")[2])
    return f"virsh update-memory-device {name} --alias {alias} --requested-size {size // KIB}KiB"


class Announcements:
    """What was last said of each VM."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def forget(self, name: str) -> None:
        """Say what there is to say of a VM as if for the first time: it has gone, or was reset."""
        self._said.pop(name, None)

    def see(self, records: Iterable[Record]) -> None:
        """Forget what was said of VMs that have come there since: somebody has made the change."""
        for record in records:
            said, size = self._said.get(record.name), record.actual_pages
            if said is not None and size is not None and abs(said - size) < _UNIT:
                del self._said[record.name]

    def lines(self, changes: Iterable[Change], mode: Mode, chatter: Chatter, now_ns: int) -> list[str]:
        """Return a line for each change that is true now.

        That is what was found or, where nothing is sent, what is new. What is sent is reported once it was.
        """
        if mode == "enforce":
            return [each.line for each in changes if each.is_found]
        lines: list[str] = []
        for each in changes:
            if not self._is_new(each):
                continue
            found = chatter.line(each.record.name, f"{each.text} (not sent: {mode})", now_ns)
            if found:
                self._said[each.record.name] = each.target
            advice = f"; to do it: {command_for(each)}" if mode == "advise" else ""
            lines += [f"{line}{advice}" for line in found]  # the command ends the line, to be copied
        return lines

    def _is_new(self, change: Change) -> bool:
        """Return whether this is far from what was said last."""
        before = self._said.get(change.record.name)
        return before is None or abs(before - change.target) >= band_pages(change.record.maximum_pages)
