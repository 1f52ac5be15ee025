"""A VM that changes again and again fills no log, and what it comes to is printed."""

from tests.rigs.obedient import ObedientHost

from dynmem.manager.step.chatter import LINES_MAX, WINDOW_NS, Chatter
from dynmem.manager.step.facts import SILENT, ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S


def test_lines_about_a_vm_are_printed_up_to_a_number_a_minute_and_the_rest_is_counted() -> None:
    chatter = Chatter()
    lines = [line for now_ns in range(100) for line in chatter.line("web", "reset", now_ns)]
    assert lines == ["web: reset"] * LINES_MAX
    assert chatter.line("db", "reset", 100) == ["db: reset"]  # each VM has its own
    assert chatter.line("web", "managed", WINDOW_NS) == [
        f"web: managed ({100 - LINES_MAX} more lines about it were left out)"
    ]
    assert chatter.line("web", "reset", WINDOW_NS + 1) == ["web: reset"]


def test_a_vm_that_falls_silent_again_and_again_is_named_a_few_times_a_minute_and_in_the_end() -> None:
    settings = ManagerSettings(4 * GIB, 0, NS_PER_S // 10, "enforce")
    host = ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 200 * MIB})
    host.sweep(5)
    lines: list[str] = []
    for sweep in range(1199):  # two minutes less one sweep
        host.overrides["web"] = {"run_state": SILENT} if sweep % 2 == 0 else {}
        lines += host.sweep().changes
    assert len(lines) <= 3 * LINES_MAX
    for _ in range(600):
        lines += host.sweep().changes
    assert "web: frozen at its last size: it does not reply" in lines[-1]


def test_a_guest_that_is_reset_again_and_again_is_named_a_few_times_a_minute() -> None:
    settings = ManagerSettings(4 * GIB, 0, NS_PER_S // 10, "enforce")
    host = ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 200 * MIB})
    lines: list[str] = []
    for resets in range(600):
        host.overrides["web"] = {"resets": resets}
        lines += host.sweep().changes
    assert 0 < len(lines) <= 2 * LINES_MAX
