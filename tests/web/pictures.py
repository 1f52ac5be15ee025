"""``python -m tests.web.pictures``: the pictures of the page in docs/, of a host whose guests are simulated.

The manager's own step decides for eight guests that come and go in their demand for an hour; its history is
written as a running manager writes it, and the real server shows it.
"""

import asyncio
import math
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.rigs.browser import DESKTOP, PHONE, Browser, browsing
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost
from tests.rigs.page_double import choose, names
from tests.rigs.pasts import written
from tests.rigs.scenes import play
from tests.rigs.status_double import listening
from tests.rigs.webs import serving

from dynmem.history.event import Event
from dynmem.history.happenings import Happenings
from dynmem.history.store import Row
from dynmem.manager.api.messages import StatusReply, encode
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.manager.step.safeguards import ALL_ON
from dynmem.units import GIB, MIB, NS_PER_MS, NS_PER_S
from dynmem.web.files import page_files

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
BYTES_MAX: Final = 150_000
_HOUR_S: Final = 3600
#: Name, minimum, maximum and priority; what its guest needs at a second of the hour, in MiB.
_VMS: Final[tuple[tuple[str, int, int, str, Callable[[int], float]], ...]] = (
    ("web-1", 512, 4096, "high", lambda at: 1200 + 500 * math.sin(at / 420)),
    ("web-2", 512, 4096, "high", lambda at: 1100 + 480 * math.sin(at / 420 + 0.6)),
    ("db", 2048, 6144, "high", lambda at: 3600 + 300 * math.sin(at / 900)),
    ("cache", 512, 3072, "normal", lambda at: 900 + at / 4),
    ("build", 512, 6144, "low", lambda at: 3900 if at % 1500 > 900 else 420),
    ("mail", 256, 2048, "normal", lambda at: 620 + 60 * math.sin(at / 200)),
    ("desktop", 512, 4096, "normal", lambda at: 900 + 700 * max(0.0, math.sin(at / 600))),
    ("test-runner", 256, 3072, "low", lambda at: 1500 if at % 700 < 250 else 300),
)


def recorded(folder: Path) -> dict[str, Any]:
    """Record an hour that ends now, and return the status at its end."""
    rng = random.Random(7)
    configs = [
        VmConfig(name, low * MIB, high * MIB, priority=priority)  # type: ignore[arg-type]
        for name, low, high, priority, _ in _VMS
    ]
    settings = ManagerSettings(16 * GIB, 512 * MIB, NS_PER_S, "enforce")
    demands = {name: round(need(0)) * MIB for name, _, _, _, need in _VMS}
    host = ObedientHost(settings, configs, demands, available_bytes=20 * GIB, safeguards=ALL_ON)
    happenings = Happenings()
    rows: list[Row] = []
    events: list[tuple[int, Event]] = []
    begin_ms = round(time.time() * 1000) - _HOUR_S * 1000
    for second in range(_HOUR_S):
        for name, _, _, _, need in _VMS:
            host.demands[name] = round((need(second) + rng.uniform(-6, 6)) * 256) * 4096
        host.sweep()
        sample = host.manager.sample()
        assert sample is not None
        row = Row(begin_ms + host.now_ns // NS_PER_MS, 10, sample)
        events += [(row.at_ms, event) for event in happenings.see(sample, {})]
        rows.append(row)
    (folder / "state").mkdir()
    written(folder / "state", rows, events)
    whole = StatusReply(**msgspec.structs.asdict(host.manager.status()), manager=DAEMON)
    decoded: dict[str, Any] = msgspec.json.decode(encode(whole))
    return decoded


def taken(browser: Browser, url: str) -> dict[str, bytes]:
    """Look at the page, and return the pictures by their names."""
    browser.open(url, (DESKTOP[0], 1000))
    browser.until(lambda: len(names(browser)) == len(_VMS) and browser.texts("#events-list .who"))
    choose(browser, "build")
    browser.until(
        lambda: browser.text("#explain pre").startswith("build") and browser.text("#readout dd") != "-"
    )
    left, top, width = browser.run(
        "const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width]"
    )
    for share in range(99, 0, -1):  # a move that the pointer finds
        at = {"x": left + width * share / 100, "y": top + 60}
        browser.command("Input.dispatchMouseEvent", type="mouseMoved", **at)
        if share < 60 and "grown" in browser.text(".reasons"):
            break
    desktop = browser.picture()
    browser.open(url, PHONE)
    browser.until(lambda: len(names(browser)) == len(_VMS) and "-" not in browser.texts("#readout dd"))
    assert browser.complaints() == []
    return {"web.png": desktop, "web-phone.png": browser.picture()}


async def pictures(folder: Path) -> dict[str, bytes]:
    """Return the pictures of a host."""
    status = await asyncio.to_thread(recorded, folder)
    (folder / "run").mkdir()
    with listening(folder / "run" / "api.sock", status), browsing() as browser:
        async with serving(folder, files=page_files()) as web:
            return await asyncio.to_thread(partial(taken, browser), f"http://127.0.0.1:{web.port}/")


def main() -> None:
    """Write them."""
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        for name, picture in play(pictures(Path(folder))).items():
            assert len(picture) <= BYTES_MAX, (name, len(picture))
            (DOCS / name).write_bytes(picture)
            print(f"docs/{name}: {len(picture)} bytes")


if __name__ == "__main__":
    main()
