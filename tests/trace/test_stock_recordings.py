"""What was recorded of stock kernels on our monitor decodes, and our machines say and log the same again."""

import io
from pathlib import Path

import pytest
from tests.rigs.beside_qemu import bus_events, events_of, operations
from tests.rigs.replayed_host import lines_of, replay

from dynmem.trace.decode import Entry
from dynmem.trace.lines import EventLine, parse
from dynmem.trace.reader import read
from dynmem.trace_events import Trace, matching
from dynmem.units import MIB

CAPTURES = Path(__file__).resolve().parent.parent / "captures"
BOOT, ADDED = 256 * MIB, 512 * MIB
SIZES = [mib * MIB for mib in (160, 256, 512, 768, 300)]  # as tests/kvm/test_recordings.py orders them
# of a guest that empties its message slot later, and where an offer lies in the host's memory
_NOT_REPLAYED = ("vmbus_msg_cb", "vmbus_channel_notify_guest")
_OF_THE_PROCESS = "dev"


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("kind", ["capture", "trace"])
def test_a_recording_of_a_stock_guest_decodes_without_a_hole(kernel: str, kind: str) -> None:
    recorded = (CAPTURES / f"stock-{kernel}.{kind}").read_bytes()
    read_back = list(read(io.BytesIO(recorded)))
    assert all(isinstance(item, Entry) for item in read_back), read_back
    assert len(read_back) == sum(not line.startswith(b"#") for line in recorded.splitlines())


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_our_host_says_to_a_recorded_stock_guest_what_it_said_and_logs_the_same(kernel: str) -> None:
    logged: list[str] = []
    trace = Trace(matching(["vmbus*", "hv_balloon*"]), lambda name, text: logged.append(f"{name} {text}"))
    lines = lines_of((CAPTURES / f"stock-{kernel}.capture").read_text())
    host = replay(lines, boot=BOOT, added=ADDED, sizes=SIZES, trace=trace)
    assert host.device.actual_bytes == SIZES[-1]
    assert host.faults.counts == {}
    recorded = (CAPTURES / f"stock-{kernel}.trace").read_text().splitlines()
    for layer in ("vmbus", "hv_balloon"):
        assert _events(logged, layer) == _events(recorded, layer)


@pytest.mark.parametrize(
    ("ours", "qemus"), [("stock-6.1.trace", "trace-linux-6.1.log"), ("stock-6.12.trace", "trace.log")]
)
def test_our_trace_of_a_stock_guest_differs_from_qemus_only_where_the_list_says_why(
    ours: str, qemus: str
) -> None:
    here, there = (events_of((CAPTURES / name).read_text()) for name in (ours, qemus))
    assert bus_events(here) == bus_events(there)
    done = operations(here, added=ADDED)
    assert done == operations(there, added=ADDED)
    assert [step.get("given", step.get("returned")) for step in done] == [
        None,
        24576,
        24576,
        None,
        None,
        119808,
    ]


def _events(lines: list[str], layer: str) -> list[tuple[str, dict[str, int | str]]]:
    """The events of a layer in order, but for what differs from run to run."""
    found = []
    for event in map(parse, lines):
        assert isinstance(event, EventLine)
        if event.name.startswith(layer) and event.name not in _NOT_REPLAYED:
            values = {name: value for name, value in event.values.items() if name != _OF_THE_PROCESS}
            found.append((event.name, values))
    return found
