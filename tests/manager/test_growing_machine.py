"""A real manager and a real VM that boots small: what its guest needs is given, also past its boot size."""

from pathlib import Path
from typing import Any

from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play
from tests.rigs.vms import BALLOON, running

MIB = 1 << 20
BOOT = 256 * MIB
MEMORY = "256M,maxmem=2G"


def test_a_vm_that_boots_small_gets_what_its_load_needs_and_gives_it_back_to_another(tmp_path: Path) -> None:
    wish = tmp_path / "wish"
    wish.write_text("40M")
    # there is room for one of the two at the most of what they want
    limits = 'minimum = "64MiB"\nmaximum = "2GiB"'
    other = f'{limits}\npriority = "high"'
    config = configured(tmp_path, "enforce", "1300MiB", web=limits, db=other)

    async def scenario() -> None:
        (tmp_path / "web").mkdir()
        (tmp_path / "db").mkdir()
        other_wish = tmp_path / "other"
        other_wish.write_text("40M")
        load, other_load = (f"embedded,workload=told,path={path},rate=1GiB" for path in (wish, other_wish))
        async with (
            running(tmp_path / "web", guest=load, memory=MEMORY, device=BALLOON) as (web, _),
            running(tmp_path / "db", guest=other_load, memory=MEMORY, device=BALLOON) as (db, _),
        ):
            (tmp_path / "web.qmp").symlink_to(web.qmp)
            (tmp_path / "db.qmp").symlink_to(db.qmp)
            async with managing(config) as manager:
                grown: dict[str, Any] = {}

                def holds(name: str, vm: Any, least: int) -> bool:
                    reports = vm.console()
                    grown[name] = reports[-1]["held_pages"] * 4096 if reports else 0
                    return bool(grown[name] >= least)

                wish.write_text("600M")
                await manager.until(lambda status: holds("web", web, 590 * MIB))
                await manager.until(lambda status: (status.vm("web").actual_bytes or 0) > BOOT)
                wish.write_text("40M")
                other_wish.write_text("700M")
                await manager.until(lambda status: holds("db", db, 690 * MIB))
                status = await manager.status()
                sizes = [status.vm(name).actual_bytes or 0 for name in ("web", "db")]
                assert sum(sizes) <= 1300 * MIB
                # a busy machine may have been late with an answer: in the end there is nothing to complain of
                await manager.until(lambda status: not any(vm.problem for vm in status.vms))
                assert web.console()[-1]["wrong_bytes"] == db.console()[-1]["wrong_bytes"] == 0

    play(scenario())
