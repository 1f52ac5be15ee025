"""A guest at work is shrunk to its floor and grown to its maximum, again and again."""

from functools import partial
from pathlib import Path

import pytest
from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, running

FULL = 256 * MIB


@pytest.mark.parametrize(
    "rounds", [10, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_rounds_to_the_floor_and_back_lose_no_byte_of_a_guest_at_work(tmp_path: Path, rounds: int) -> None:
    """The load swings between 5 % and 80 %, so a round may meet it anywhere: the floor moves with it."""

    async def scene() -> None:
        guest = "embedded,workload=sine,period=2s,low=5%,high=80%,rate=1GiB"
        async with running(tmp_path, memory="256M", guest=guest) as (vm, client):

            async def at_floor() -> bool:
                return bool((await client.execute("x-query-hv-balloon"))["at-floor"])

            async def full() -> bool:
                return bool(await client.execute("query-balloon") == {"actual": FULL})

            def more_reports_than(count: int) -> bool:
                return len(vm.console()) > count

            lowest, shrunk = FULL, 0
            for _ in range(rounds):
                await client.execute("balloon", {"value": 16 * MIB})
                await until(at_floor)
                shrunk += (await client.execute("query-balloon"))["actual"] < FULL
                lowest = min(lowest, vm.resident_bytes())
                await client.execute("balloon", {"value": FULL})
                await until(full)
                await until(partial(more_reports_than, len(vm.console())))  # the load goes on
            await until(lambda: vm.console()[-1]["regained_pages"] == vm.console()[-1]["given_pages"])
            report = vm.console()[-1]
            assert report["given_pages"] * 4096 > rounds * 16 * MIB
            assert shrunk >= rounds // 3  # at the top of its load the guest is at its floor already
            assert lowest < 0.8 * FULL
            assert report["verified_pages"] > rounds * 1000
            assert (report["wrong_bytes"], report["wrong_pages"], report["faults"]) == (0, 0, 0)

    play(scene())
