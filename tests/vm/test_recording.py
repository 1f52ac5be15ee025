"""A machine writes down what it does: QEMU's trace events in QEMU's form, and a capture of its traffic."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, Vm, running

from dynmem.errors import ConfigError
from dynmem.trace.decode import Entry
from dynmem.trace.reader import Problem, read
from dynmem.vm.options.machine import parse_trace

ATTACKER = Path(__file__).parents[1] / "rigs" / "hostile_guest.py"
LINE = re.compile(r"\d+@\d{10}\.\d{6}:(vmbus|hv_balloon)_[a-z_]+ .*")


def entries(path: Path) -> list[Entry]:
    with path.open("rb") as stream:
        found = list(read(stream))
    assert all(isinstance(item, Entry) for item in found), found
    return [item for item in found if isinstance(item, Entry)]


async def squeeze(vm: Vm, client: object) -> None:
    """One balloon down and up again."""
    for size in (256 * MIB, 512 * MIB):
        await client.execute("balloon", {"value": size})  # type: ignore[attr-defined]

        async def there(size: int = size) -> bool:
            info = await client.execute("query-balloon")  # type: ignore[attr-defined]
            return bool(info["actual"] == size)

        await until(there)


def test_a_balloon_down_and_up_is_in_the_log_and_in_the_capture(tmp_path: Path) -> None:
    log, capture = tmp_path / "trace.log", tmp_path / "one.capture"
    options = ("--trace=hv_balloon*", "--trace=vmbus*", f"-D{log}", f"--capture={capture}")

    async def story() -> int:
        async with running(tmp_path, guest="embedded,workload=idle", options=options) as (vm, client):
            await squeeze(vm, client)
            await until(lambda: b"UNBALLOON_REPLY_WAIT" in log.read_bytes())
            await until(lambda: b"S_IDLE" in log.read_bytes().rpartition(b"UNBALLOON_REPLY_WAIT")[2])
            os.kill(vm.process.pid, signal.SIGTERM)
            await vm.exit_code()
            return vm.process.pid

    pid = play(story())
    lines = log.read_text().splitlines()
    assert all(LINE.fullmatch(line) and line.startswith(f"{pid}@") for line in lines)
    states = [str(e.fields["tostr"]) for e in entries(log) if e.name == "hv_balloon_state_change"]
    assert states[states.index("S_VERSION") :][:7] == [
        "S_VERSION",
        "S_CAPS",
        "S_POST_INIT_WAIT",
        "S_IDLE",
        "S_BALLOON_RB_WAIT",
        "S_BALLOON_POSTING",
        "S_BALLOON_REPLY_WAIT",
    ]
    assert {"vmbus_initiate_contact", "vmbus_send_offer", "vmbus_channel_open"} <= {
        entry.name for entry in entries(log)
    }
    captured = entries(capture)
    names = [entry.name for entry in captured]
    assert names[0] == "INITIATE_CONTACT"
    for name in (
        "OFFERCHANNEL",
        "OPENCHANNEL_RESULT",
        "DM_CAPABILITIES_REPORT",
        "DM_BALLOON_REQUEST",
        "DM_BALLOON_RESPONSE",
        "DM_UNBALLOON_REQUEST",
        "DM_UNBALLOON_RESPONSE",
    ):
        assert name in names
    times = [entry.time_ns or 0 for entry in captured]
    assert times == sorted(times)
    logged = [e for e in entries(log) if e.name == "hv_balloon_outgoing_unballoon"]
    ranges = [e.fields["ranges"] for e in captured if e.name == "DM_UNBALLOON_REQUEST"]
    assert [(e.fields["start"], e.fields["count"]) for e in logged] == [
        one for some in ranges if isinstance(some, list) for one in some
    ]


def test_patterns_of_trace_events_are_qemus() -> None:
    assert parse_trace(()) == frozenset()
    assert parse_trace(("enable=vmbus_post_msg",)) == {"vmbus_post_msg"}
    assert "hv_balloon_remove_response" not in parse_trace(("hv_balloon*", "-hv_balloon_remove*"))
    with pytest.raises(ConfigError, match="no event has that name"):
        parse_trace(("virtio*",))


async def attacked(tmp_path: Path, name: str) -> tuple[list[str], Path]:
    """The trace log's lines and the capture of a machine whose guest does its worst."""
    log, capture = tmp_path / "trace.log", tmp_path / "one.capture"
    program = tmp_path / "guest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ATTACKER} "$@"\n')
    program.chmod(0o755)
    guest = f"embedded,program={program},workload={name}"
    options = ("--trace=vmbus*", f"-D{log}", f"--capture={capture}")
    async with running(tmp_path, memory="64M", guest=guest, options=options) as (vm, client):
        await until(lambda: [line for line in vm.console() if line["t"] == "done"])
        await client.execute("quit")
        assert await vm.exit_code() == 0
    return log.read_text().splitlines(), capture


def test_noise_that_a_guest_posts_is_captured_and_reported_line_by_line(tmp_path: Path) -> None:
    lines, capture = play(attacked(tmp_path, "posts"))
    assert all(LINE.fullmatch(line) for line in lines)
    with capture.open("rb") as stream:
        found = list(read(stream))
    problems = [item.line for item in found if isinstance(item, Problem)]
    assert problems == sorted(problems)
    assert len(problems) > 100
    posted = [line for line in capture.read_text().splitlines() if " G>H msg " in f"{line} "]
    assert len(posted) == 3000
    assert len(found) == len(capture.read_text().splitlines()) - 1


def test_a_message_that_finds_no_slot_is_logged_once_as_qemu_logs_a_retry(tmp_path: Path) -> None:
    lines, _ = play(attacked(tmp_path, "pages_outside"))
    texts = [line.partition(":")[2] for line in lines]
    assert texts[:4] == [
        "vmbus_recv_message type 14 size 40",
        "vmbus_process_incoming_message type 14",
        "vmbus_initiate_contact version 4.0 target vp 0 mon pages 0x0,0x0 int page 0x0",
        "vmbus_post_msg type 15 size 16",
    ]
    assert texts[4] == "vmbus_msg_cb message status -11"
    assert texts.count("vmbus_msg_cb message status -11") == texts.count("vmbus_post_msg type 15 size 16")


def test_a_channel_that_a_guest_breaks_is_remarked_in_the_capture(tmp_path: Path) -> None:
    _, capture = play(attacked(tmp_path, "ring_garbage"))
    remarks = [line for line in capture.read_text().splitlines() if line.startswith("# ")]
    assert len(remarks) == 2
    assert re.fullmatch(r"# \d+\.\d{9} channel 1 \(hv-balloon\): .+", remarks[1])
