"""Admission: a VM asks the manager before it makes its memory, and one that does not fit never starts."""

from pathlib import Path

import pytest
from tests.rigs.managers import ObedientVm, cli, configured, managing
from tests.rigs.monitored import MEBIBYTE, listening
from tests.rigs.scenes import play

from dynmem.cli import main
from dynmem.errors import ExitCode
from dynmem.manager.api import client
from dynmem.vm import main as vm_main
from dynmem.vm.options.machine import VmOptions

SMALL = 'minimum = "16MiB"\nmaximum = "256MiB"'
LARGE = 'minimum = "200MiB"\nmaximum = "256MiB"'


def asks(name: str, mib: int, folder: Path, **more: object) -> dict[str, object]:
    return {
        "command": "admit",
        "name": name,
        "size_bytes": mib * MEBIBYTE,
        "monitor": str(folder / f"{name}.qmp"),
        **more,
    }


def test_a_vm_that_fits_is_admitted_and_its_room_is_kept_until_it_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "300MiB", db=SMALL)
        async with managing(config) as manager:
            await manager.sweeps(1)
            reply = await manager.ask(**asks("db", 256, tmp_path))
            assert reply["ok"], reply
            (held,) = (await manager.status()).reservations
            assert (held.name, held.state) == ("db", "ready")
            async with listening(tmp_path / "db.qmp", ObedientVm(32).serve):
                await manager.until(lambda status: not status.reservations)
                status = await manager.until(lambda status: status.vm("db").demand_bytes)
                assert status.vm("db").there
                reply = await manager.ask(**asks("db", 256, tmp_path))
                assert (reply["ok"], reply["exit_code"]) == (False, 5)
                assert "a VM runs on its monitor already" in reply["error"]

    play(scenario())


def test_a_vm_that_can_never_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "300MiB", web=LARGE, db=SMALL)
        async with listening(tmp_path / "web.qmp", ObedientVm(64).serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").demand_bytes)
            reply = await manager.ask(**asks("db", 128, tmp_path))
            assert (reply["ok"], reply["exit_code"]) == (False, 5)
            assert reply["error"].startswith("not admitted: db: 128 MiB cannot be made free:")
            assert "(200 MiB)" in reply["error"]
            assert (await manager.status()).reservations == ()

    play(scenario())


def test_a_vm_that_does_not_fit_in_time_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "observe", "300MiB", web=SMALL, db=SMALL)
        async with listening(tmp_path / "web.qmp", ObedientVm(64).serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").demand_bytes)
            reply = await manager.ask(**asks("db", 128, tmp_path, wait_ns=0))
            assert (reply["ok"], reply["exit_code"]) == (False, 7)
            assert reply["error"].startswith("not admitted: db: no room after 0 s")
            assert (await manager.status()).reservations == ()

    play(scenario())


def test_a_vm_is_admitted_only_as_the_file_describes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with managing(configured(tmp_path, "enforce", "1GiB", db=SMALL)) as manager:
            await manager.sweeps(1)
            for request, code, why in (
                (asks("dv", 64, tmp_path), 2, "has no VM 'dv': it has db"),
                ({**asks("db", 64, tmp_path), "monitor": "/run/x.qmp"}, 2, f"--qmp unix:{tmp_path}/db.qmp,"),
                (asks("db", 257, tmp_path), 5, "boots with 257 MiB, its maximum in"),
                (asks("db", 0, tmp_path), 2, "a reservation has a size above 0"),
            ):
                reply = await manager.ask(**request)
                assert (reply["ok"], reply["exit_code"]) == (False, code), reply
                assert why in reply["error"]

    play(scenario())


def test_a_refused_vm_ends_with_the_managers_sentence_before_it_makes_anything(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configured(tmp_path, "enforce", "300MiB", web=LARGE, db=SMALL)
        start = ("vm", "--name", "db", "-m", "128M", "--device", "hv-balloon")
        at, monitor = ("--manager", tmp_path / "run" / "api.sock"), tmp_path / "db.qmp"
        async with listening(tmp_path / "web.qmp", ObedientVm(64).serve), managing(config) as manager:
            await manager.until(lambda status: status.vm("web").demand_bytes)
            code, out, err = await cli(*start, *at, "--qmp", f"unix:{monitor},server=on,wait=off")
            assert (code, out) == (5, "")
            assert err.startswith("dynmem: not admitted: db: 128 MiB cannot be made free:")
            assert err.count("\n") == 1
            assert not monitor.exists()
            code, _, err = await cli(*start, *at)
            assert (code, err) == (
                2,
                "dynmem: --manager: the manager reaches a VM by its monitor: add --qmp unix:PATH,...\n",
            )
        code, _, err = await cli(*start, *at, "--qmp", f"unix:{monitor},server=on,wait=off")
        assert code == 3
        assert "no manager is running at" in err
        assert not monitor.exists()

    play(scenario())


def test_a_vm_asks_for_all_that_it_boots_with_and_starts_when_it_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[object] = []

    def ask(path: Path, request: dict[str, object], *, timeout_s: float) -> dict[str, object]:
        happened.append((path, request, timeout_s > 30))
        return {"ok": True}

    def run(options: VmOptions) -> ExitCode:
        happened.append(options.name)
        return ExitCode.OK

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(vm_main, "run", run)
    monitor = tmp_path / "web.qmp"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("vm", "--name", "web", "-m", "256M,maxmem=1G,slots=1", "--manager", "/run/api.sock"),
                *("--object", "memory-backend-ram,id=m,size=128M", "--device", "pc-dimm,id=d,memdev=m"),
                *("--device", "hv-balloon", "--qmp", f"unix:{monitor},server=on,wait=off"),
            ]
        )
    assert ended.value.code == ExitCode.OK
    request = {
        "command": "admit",
        "name": "web",
        "size_bytes": (256 + 128) * MEBIBYTE,
        "monitor": str(monitor.resolve()),
    }
    assert happened == [(Path("/run/api.sock"), request, True), "web"]
