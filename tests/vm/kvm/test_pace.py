"""How fast processors may leave their guest while others do, too."""

from pathlib import Path

import pytest
from tests.hostile.kernels.cast import options_of_kernels
from tests.rigs.mini_guest import MiniGuest, needs_kvm
from tests.rigs.scenes import plays, until

from dynmem.vm.kvm.pace import Pace


class Scene:
    """Processors that share a clock, and what each of their pauses was."""

    def __init__(self, vp_count: int) -> None:
        self.now_s = 100.0
        self.pauses: list[float] = []
        self.pace = Pace(vp_count, lambda: self.now_s, self.pauses.append)

    def exits(self, *processors: int, every_s: float = 0.000_01) -> None:
        for vp in processors:
            self.now_s += every_s
            self.pace.after_exit(vp)


def test_a_single_processor_never_pauses_nor_does_one_that_seldom_leaves_the_guest() -> None:
    scene = Scene(2)
    scene.exits(*[0] * 100)
    scene.exits(1)
    scene.exits(*[0, 1] * 20, every_s=0.001)
    assert scene.pauses == []


def test_the_more_processors_leave_the_guest_all_the_time_the_longer_each_one_pauses() -> None:
    scene = Scene(8)
    scene.exits(0, 1)
    scene.exits(0, 1)
    two = scene.pauses.copy()
    scene.exits(*range(8))
    scene.pauses.clear()
    scene.exits(*range(8))
    assert len(set(two)) == 1
    assert len(two) == 2
    assert scene.pauses == pytest.approx([two[0] * 7] * 8)


def test_one_that_leaves_the_guest_no_more_is_not_waited_for() -> None:
    scene = Scene(2)
    scene.exits(0, 1, 0)
    assert len(scene.pauses) == 1
    scene.now_s += 0.01
    scene.exits(0, 0, 0)
    assert len(scene.pauses) == 1


@needs_kvm
@plays
async def test_each_processor_of_a_guest_keeps_the_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    monkeypatch.setattr(Pace, "after_exit", lambda _pace, vp: seen.add(vp))
    options = options_of_kernels(tmp_path)("it writes to a port where nothing is")
    scene = MiniGuest(Path(options[0].removeprefix("--kernel=")), vp_count=3)
    try:
        await scene.guest.power_on(())
        await until(lambda: seen == {0, 1, 2})
    finally:
        await scene.guest.power_off()
        scene.close()
