"""A monitor's commands on objects, devices and properties as a target, over a machine without a process.

Whatever a client asks, it gets an answer or a QmpCommandError. One that is refused has changed nothing, and
after each one the machine's tables agree with each other: an object is busy as long as something uses it, and
what is plugged is mapped, apart from everything else.
"""

import asyncio
import inspect
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.engine import Target

from dynmem.limits import QMP_MESSAGE_BYTES_MAX
from dynmem.qmp.command import checked_arguments, find_command, parse_request
from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.parser import Malformed, ValueReader
from dynmem.qmp.types import read
from dynmem.units import MIB
from dynmem.vm.machine import Machine
from dynmem.vm.monitor.commands import commands
from dynmem.vm.options.machine import BalloonOptions, VmOptions
from dynmem.vm.options.memory import BackendOptions, DimmOptions, MemoryOptions

BURST = 64
RESIDENT_MAX = 8 * MIB  # of what the target lets a client ask for
UNTOUCHED = ("quit", "stop", "system_reset", "cont")  # for these there has to be a guest
OPTIONS = VmOptions(
    name="fuzzed",
    memory=MemoryOptions(32 * MIB, 192 * MIB, 4),
    objects=(
        BackendOptions("memory-backend-memfd", "hv", 64 * MIB),
        BackendOptions("memory-backend-ram", "r", 4 * MIB),
        BackendOptions("memory-backend-memfd", "m", 4 * MIB),
    ),
    balloon=BalloonOptions(memdev="hv"),
    dimms=(DimmOptions("m", "d"),),
)


class MonitorRig:
    """The machine, and a client that is told everything."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.count = 0
        self.machine: Machine | None = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self.machine is not None:
            self.machine.memory.close()

    def restart(self) -> None:
        self.close()
        for path in Path(self.folder.name).iterdir():
            path.unlink()
        self.machine = Machine(OPTIONS, lambda *_: None)
        self.commands = commands(self.machine)

    def feed(self, data: bytes) -> None:
        if self.count % BURST == 0:
            self.restart()
        self.count += 1
        for value in ValueReader(message_bytes_max=QMP_MESSAGE_BYTES_MAX).feed(data):
            if isinstance(value, Malformed):
                continue
            before = self.tables()
            try:
                self.ask(value)
            except QmpCommandError:
                assert self.tables() == before, "what was refused has changed something"
        self.check()

    def ask(self, value: object) -> None:
        request = parse_request(value)
        if request.command in UNTOUCHED:
            return
        self.tame(request.command, request.arguments)
        command = find_command(self.commands, request.command)
        answer = command.run(checked_arguments(command, request.arguments))
        if inspect.iscoroutine(answer):
            answer = asyncio.run(answer)
        read(command.returns, answer, "answer")

    def tame(self, name: str, arguments: dict[str, object]) -> None:
        """Keep files in one folder, and memory that is to be there at once small: it would really be."""
        path, size = arguments.get("mem-path"), arguments.get("size")
        if isinstance(path, str) and path:
            arguments["mem-path"] = f"{self.folder.name}/{path.replace('/', '_')}"
        if "prealloc" in arguments and isinstance(size, int) and size & ((1 << 64) - 1) > RESIDENT_MAX:
            del arguments["prealloc"]
        if name == "qom-set" and arguments.get("property") == "prealloc":
            arguments["path"] = "r"

    def tables(self) -> object:
        """Everything that a command can change, but for what is kept of properties."""
        assert self.machine is not None
        machine = self.machine
        assert machine.balloon is not None
        return (
            sorted(machine.objects),
            machine.objects.busy,
            dict(machine.objects.options),
            {name: (dimm.get_addr(), dimm.slot) for name, dimm in machine.dimms.by_name.items()},
            machine.memory.space.sections,
            machine.balloon.host.boot_pages,
            [memory.first_page for memory in machine.balloon.pages._memories],
            sorted(Path(self.folder.name).iterdir()),
        )

    def check(self) -> None:
        assert self.machine is not None
        machine = self.machine
        dimms = machine.dimms.by_name.values()
        used = sorted(["hv", *(dimm.memdev for dimm in dimms)])
        assert sorted(name for name in machine.objects if machine.objects.is_busy(name)) == used
        assert len(machine.device_memory.devices) == len(used)
        assert len({dimm.slot for dimm in dimms}) == len(dimms)
        starts = sorted((each.address, each.address + each.size) for each in machine.memory.space.sections)
        assert len(starts) == 1 + len(dimms)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(starts))
        for dimm in dimms:
            assert machine.device_memory.base <= dimm.get_addr()


def script(*requests: str) -> bytes:
    """Requests as a client sends them, one a line."""
    return "\n".join(requests).encode()


ADD = '{"execute": "object-add", "arguments": {"qom-type": "memory-backend-%s", "id": "%s", "size": %s}}'
PLUG = '{"execute": "device_add", "arguments": {"driver": "pc-dimm", "id": "%s", "memdev": "%s"%s}}'
SET = '{"execute": "qom-set", "arguments": {"path": "%s", "property": "%s", "value": %s}}'
OF_ID = '{"execute": "%s", "arguments": {"id": "%s"}}'
AT = '{"execute": "%s", "arguments": {"path": "%s"%s}}'
SCRIPTS = (
    script(ADD % ("ram", "a", '2097152, "share": true, "prealloc": true'), OF_ID % ("object-del", "a")),
    script(ADD % ("memfd", "a", "9223372036854775807"), ADD % ("memfd", "b", '4096, "dump": false')),
    script(ADD % ("memfd", "a", '2097152, "hugetlb": true, "hugetlbsize": 2097152')),
    script(ADD % ("file", "a", '4096, "mem-path": "f", "share": true, "discard-data": true')),
    script(ADD % ("file", "a", '9223372036854775808, "mem-path": "f", "share": true')),
    script(PLUG % ("a", "r", ', "slot": 1'), OF_ID % ("object-del", "r"), OF_ID % ("device_del", "a")),
    script(PLUG % ("b", "r", ', "addr": 34426847232, "node": 0'), PLUG % ("c", "/objects/r", "")),
    script('{"execute": "device_add", "arguments": {"driver": "pc-dimm", "memdev": "r"}}'),
    script(
        ADD % ("ram", "a", "2097152"),
        PLUG % ("device[0]", "r", ""),
        '{"execute": "device_add", "arguments": {"driver": "pc-dimm", "memdev": "a"}}',
    ),
    script(SET % ("r", "prealloc", "true"), SET % ("/objects/m", "dump", "false")),
    script(SET % ("/machine/peripheral/d", "memdev", '"r"'), SET % ("d", "realized", "false")),
    script(AT % ("qom-get", "/machine/peripheral/d", ', "property": "memdev"'), AT % ("qom-list", "/", "")),
    script(AT % ("qom-list", "/machine/peripheral/d/memdev", ""), AT % ("qom-list", "", "")),
    script('{"execute": "query-memory-devices"}', '{"execute": "query-memdev"}'),
    script('{"execute": "query-memory-size-summary"}', '{"execute": "query-balloon"}'),
    script('{"execute": "x-hot-remove", "arguments": {"size": 4096}}'),
    script('{"execute": "balloon", "arguments": {"value": 67108864}}'),
)
WORDS = (
    b"true", b"null", b"-1", b"0", b"4096", b"2097152", b"1e3", b"18446744073709551615", b'""', b"{}", b"[1]",
    b"/", b"\\ud83d\\ude00", b"device[0]", b", \"share\": false", b"r", b"hv", b"pc.ram", b"x" * 300,
    b", \"prealloc-threads\": 0", b"\n", b"machine", b"9" * 19,
)  # fmt: skip


def monitors() -> Callable[[bytes], Any]:
    """A monitor's commands about memory."""
    return MonitorRig().feed


MONITORS = (Target("monitor", monitors, SCRIPTS, (), WORDS, b'0123456789abcdrm/."-', cost=40),)
