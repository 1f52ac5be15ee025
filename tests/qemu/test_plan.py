"""What `dynmem plan` says of real guests: where they come to when the manager is allowed to do it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.qemu.test_managed import AtRest, size, switch_statistics_on
from tests.rigs.linux_guest import Boot, Until
from tests.rigs.managed_guests import configuration, manager

from dynmem.lab.workload import Load
from dynmem.units import MIB

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("processors"), pytest.mark.timeout(900)]

# A kernel's own use wanders by some MiB between the plan and the rest, and a target follows it.
NEAR = 24 * MIB


def said(*arguments: object) -> str:
    command = [sys.executable, "-m", "dynmem", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_real_guests_come_to_the_sizes_that_were_planned_and_their_history_can_be_simulated(
    boot: Boot, until: Until, folder: Path
) -> None:
    guests = {
        "a": boot(512, name="a", load=Load(high_bytes=200 * MIB, rate_bytes=256 * MIB)),
        "b": boot(512, name="b", load=Load(high_bytes=16 * MIB, rate_bytes=256 * MIB)),
    }
    first = guests["a"]
    for guest in guests.values():
        switch_statistics_on(guest)
    config = configuration(folder, tuple(guests.values()), budget="2GiB", mode="observe")
    socket, trace = folder / "api" / "socket", folder / "host.trace"

    def planned(*options: object) -> dict[str, Any]:
        reply = json.loads(said("plan", "--socket", socket, "--json", *options))
        assert isinstance(reply, dict)
        return reply

    def is_known() -> bool:
        try:
            vms = planned()["now"]["vms"]
        except subprocess.CalledProcessError:  # it has made no step yet
            return False
        return all(vm["planned_bytes"] and vm["demand_bytes"] for vm in vms) and len(vms) == len(guests)

    with manager(config, folder / "log"):
        until(first, is_known)
        found = planned("--budget", "700MiB")
        assert found["now"]["moves"] == []  # it all fits into 2 GiB
        targets = {vm["name"]: vm["planned_bytes"] for vm in found["tried"]["vms"]}
        assert sum(targets.values()) <= 668 * MIB
        assert {each["vm"] for each in found["tried"]["moves"]} == {"a", "b"}
        text = config.read_text().replace('"2GiB"', '"700MiB"').replace('"observe"', '"enforce"')
        config.write_text(text)
        os.kill(_pid(socket), signal.SIGHUP)
        at_rest = AtRest()
        until(
            first,
            lambda: sum(map(size, guests.values())) <= 668 * MIB and at_rest(*map(size, guests.values())),
        )
        sizes = {name: size(guest) for name, guest in guests.items()}
        assert sizes == pytest.approx(targets, abs=NEAR)
    assert [guest.oom_kills for guest in guests.values()] == [0, 0]
    said("history", "--since", "1h", "--state", folder / "state", "--export", trace)
    reply = json.loads(said("simulate", "--trace", trace, "--jobs", "1", "--json"))
    rules = {rule["rule"]: rule for rule in reply["rules"]}
    assert reply["vms"] == len(guests)
    assert rules["dynmem"]["kills"] == 0
    assert rules["none"]["peak_bytes"] > 200 * MIB


def _pid(socket: Path) -> int:
    return int(json.loads(said("status", "--socket", socket, "--json"))["manager"]["pid"])
