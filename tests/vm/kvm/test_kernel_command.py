"""`dynmem vm --kernel` as a program, with guests of a few bytes that print a letter and end in some way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs.kernels import KERNEL_AT, elf, load_segment, note_segment, pvh_note
from tests.rigs.mini_guest import needs_kvm
from tests.rigs.scenes import play, until
from tests.rigs.vms import running

from dynmem.vm.kvm.acpi import FIRMWARE

pytestmark = needs_kvm

SLEEP_ENABLE = 1 << 13
CRASH_CTL, CRASH_NOTIFY = 0x4000_0105, 1 << 31  # bit 63 of the register, in edx


def out(port: int, value: int, size: int = 1) -> bytes:
    """In 32-bit code: mov dx, port; mov eax, value; out dx, al or ax."""
    opcode = b"\xee" if size == 1 else b"\x66\xef"
    return b"\x66\xba" + port.to_bytes(2, "little") + b"\xb8" + value.to_bytes(4, "little") + opcode


HALT = b"\xf4\xeb\xfd"  # hlt; jmp to it
HELLO = out(0x3F8, ord("k"))
RESET = out(FIRMWARE.reset_port, FIRMWARE.reset_value)
POWER_OFF = out(FIRMWARE.pm1_control, FIRMWARE.power_off_type << 10 | SLEEP_ENABLE, 2)
TRIPLE_FAULT = b"\x0f\x0b"  # ud2, and there is no table of interrupts
CRASH = (
    b"\xb9" + CRASH_CTL.to_bytes(4, "little")  # mov ecx
    + b"\xba" + CRASH_NOTIFY.to_bytes(4, "little")  # mov edx
    + b"\x31\xc0\x0f\x30"  # xor eax, eax; wrmsr
)  # fmt: skip


def kernel_of(folder: Path, code: bytes) -> Path:
    kernel = folder / "kernel"
    kernel.write_bytes(elf(load_segment(KERNEL_AT, code), note_segment(pvh_note(KERNEL_AT))))
    return kernel


@pytest.mark.parametrize(
    ("code", "options", "exit_code", "said"),
    [
        (RESET, ("-no-reboot", "-smp", "2"), 0, "ended: guest-reset, and no reboot"),
        (TRIPLE_FAULT, ("--action", "reboot=shutdown"), 0, "ended: guest-reset, and no reboot"),
        (POWER_OFF, (), 0, "ended: guest-shutdown"),
        (CRASH, (), 0, "ended: the guest crashed"),
        (CRASH, ("--action", "panic=exit-failure"), 1, "crashed: it reports 0x0, 0x0, 0x0, 0x0, 0x0"),
    ],
)
def test_a_kernel_is_run_until_it_ends_and_the_exit_code_says_how(
    code: bytes, options: tuple[str, ...], exit_code: int, said: str, tmp_path: Path
) -> None:
    kernel = kernel_of(tmp_path, HELLO + code + HALT)
    command = [sys.executable, "-m", "dynmem", "vm", "-m", "32M", "-device", "hv-balloon"]
    command += ["-kernel", str(kernel), "-serial", f"file:{tmp_path}/serial", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == exit_code, done.stderr
    assert said in done.stderr
    assert (tmp_path / "serial").read_text() == "k"


def test_a_kernel_that_is_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynmem", "vm", "-m", "32M", "-kernel", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dynmem: --kernel ")
    assert done.stderr.count("\n") == 1


def threads_of(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}


def test_a_monitor_sees_the_processors_and_stops_continues_and_resets_them(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, HELLO + HALT)

    async def scene() -> None:
        options = ("-kernel", str(kernel), "-smp", "2")
        async with running(tmp_path, memory="32M", guest=None, options=options) as (vm, client):
            await until(lambda: vm.serial.exists() and vm.serial.read_text() == "k")
            tasks = threads_of(vm.process.pid)
            threads = [cpu["thread-id"] for cpu in await client.execute("query-cpus-fast")]
            assert len(set(threads)) == 2
            assert set(threads) <= tasks - {vm.process.pid}
            await client.execute("stop")
            assert await client.execute("query-status") == {"status": "paused", "running": False}
            await client.execute("system_reset")
            await client.execute("cont")
            await until(lambda: vm.serial.read_text() == "kk")
            await client.execute("quit")
            assert await vm.exit_code() == 0

    play(scene())
