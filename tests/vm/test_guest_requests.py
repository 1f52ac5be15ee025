"""What a guest asks of its machine by itself: a reset, power off, and what its crash leads to."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

import pytest
from tests.rigs.fake_platform import BOOT, Scene
from tests.rigs.scenes import plays, until

from dynmem.qmp.errors import QmpCommandError
from dynmem.qmp.types import read
from dynmem.units import MIB
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.machine import Machine
from dynmem.vm.monitor.commands import commands
from dynmem.vm.monitor.schema import EVENTS
from dynmem.vm.options.actions import ActionOptions, PanicAction, RebootAction
from dynmem.vm.options.memory import DimmOptions

TEXT = "[ 1.5] hv_balloon: ok\n\n[ 2.5] Kernel panic - \x1b[2Jsyncing\n"
CRASH = GuestCrash((0xF4, 1, 2, 0x4000, 86), TEXT)
INFO = {"type": "hyper-v", "arg1": 0xF4, "arg2": 1, "arg3": 2, "arg4": 0x4000, "arg5": 86}


def acting(panic: PanicAction = PanicAction.SHUTDOWN, reboot: RebootAction = RebootAction.RESET) -> Scene:
    return Scene(actions=ActionOptions(reboot, panic))


def declared(scene: Scene) -> list[tuple[str, Mapping[str, object]]]:
    """Every event with its data, which is as the schema says."""
    found = list(zip(scene.events, scene.reported, strict=True))
    for name, data in found:
        read(EVENTS[name], dict(data), name)
    return found


async def ask(machine: Machine, command: str, **arguments: object) -> object:
    answer = commands(machine)[command].run(arguments)
    return await answer if asyncio.iscoroutine(answer) else answer


@plays
async def test_a_guest_that_asks_for_a_reset_is_reset_and_the_next_one_has_all_its_memory() -> None:
    scene = Scene()
    scene.balloon.set_target(BOOT - 8 * MIB)
    await scene.machine.start()
    await scene.until_actual(BOOT - 8 * MIB)
    scene.guest.owner.wants_reset()
    await until(lambda: "RESET" in scene.events)
    assert ("RESET", {"guest": True, "reason": "guest-reset"}) in declared(scene)
    await scene.until_actual(BOOT)
    assert scene.machine.run_state == "running"
    assert scene.guest.calls == ["power on, 1 doorbell", "power off", "power on, 1 doorbell"]
    await scene.machine.close()


@plays
async def test_a_guest_that_powers_itself_off_ends_its_machine() -> None:
    scene = Scene()
    await scene.machine.start()
    scene.guest.owner.exited()
    assert declared(scene) == [("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]
    assert scene.machine.ending is not None
    assert scene.machine.ending.problem is None
    await scene.machine.close()


@plays
async def test_a_machine_that_must_not_reboot_ends_where_it_would_be_reset() -> None:
    by_guest, by_monitor = acting(reboot=RebootAction.SHUTDOWN), acting(reboot=RebootAction.SHUTDOWN)
    await by_guest.machine.start()
    await by_monitor.machine.start()
    by_guest.guest.owner.wants_reset()
    await ask(by_monitor.machine, "system_reset")
    assert declared(by_guest) == [("SHUTDOWN", {"guest": True, "reason": "guest-reset"})]
    assert declared(by_monitor) == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-system-reset"})]
    for scene in (by_guest, by_monitor):
        assert scene.machine.ending is not None
        assert scene.machine.ending.problem is None
        await scene.machine.close()
        assert scene.guest.calls == ["power on, 1 doorbell", "kill", "power off"]


@pytest.mark.parametrize("action", [PanicAction.SHUTDOWN, PanicAction.EXIT_FAILURE])
def test_a_crash_ends_the_machine_and_only_exit_failure_makes_it_a_failure(action: PanicAction) -> None:
    @plays
    async def scene_of_it() -> None:
        scene = acting(action)
        await scene.machine.start()
        scene.guest.owner.crashed(CRASH)
        assert declared(scene) == [
            ("GUEST_PANICKED", {"action": "poweroff", "info": INFO}),
            ("SHUTDOWN", {"guest": True, "reason": "guest-panic"}),
        ]
        assert scene.guest.calls[-1] == "kill"
        ending = scene.machine.ending
        assert ending is not None
        assert (ending.problem is not None) == (action is PanicAction.EXIT_FAILURE)
        await scene.machine.close()

    scene_of_it()


@plays
async def test_a_guest_that_crashed_may_be_kept_as_it_is_and_let_go_on() -> None:
    scene = acting(PanicAction.PAUSE)
    machine = scene.machine
    await machine.start()
    scene.guest.owner.crashed(CRASH)
    await until(lambda: "STOP" in scene.events)
    assert declared(scene) == [("GUEST_PANICKED", {"action": "pause", "info": INFO}), ("STOP", {})]
    assert await ask(machine, "query-status") == {"status": "guest-panicked", "running": False}
    await ask(machine, "cont")
    assert await ask(machine, "query-status") == {"status": "running", "running": True}
    await ask(machine, "stop")
    assert machine.run_state == "paused"
    await machine.close()


@plays
async def test_what_a_crashed_guest_asks_for_before_it_is_paused_waits_until_it_goes_on() -> None:
    scene = acting(PanicAction.PAUSE)
    await scene.machine.start()
    scene.guest.owner.crashed(CRASH)
    scene.guest.owner.wants_reset()  # a kernel that reboots at once: it had not been stopped yet
    await until(lambda: "STOP" in scene.events)
    scene.guest.owner.wants_reset()  # or when it had been
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.machine.run_state == "guest-panicked"
    assert scene.guest.calls == ["power on, 1 doorbell", "freeze"]
    scene.machine.resume()
    await until(lambda: "RESET" in scene.events)
    assert scene.machine.run_state == "running"
    assert "thaw" not in scene.guest.calls  # not an instruction of the guest that asked for its end
    await scene.machine.close()


@plays
async def test_a_crashed_guest_can_be_reset_and_the_next_one_waits_to_run() -> None:
    scene = acting(PanicAction.PAUSE)
    await scene.machine.start()
    scene.guest.owner.crashed(CRASH)
    scene.machine.reset()
    await until(lambda: "RESET" in scene.events)
    assert scene.events == ["GUEST_PANICKED", "STOP", "RESET"]
    assert scene.machine.run_state == "prelaunch"
    scene.guest.owner.wants_reset()  # the next guest has not crashed
    await until(lambda: scene.events.count("RESET") == 2)
    await scene.machine.close()


@plays
async def test_what_a_crashed_guest_asked_for_is_forgotten_when_it_is_reset_meanwhile() -> None:
    scene = acting(PanicAction.PAUSE)
    await scene.machine.start()
    scene.guest.owner.crashed(CRASH)
    scene.guest.owner.wants_reset()
    await until(lambda: "STOP" in scene.events)
    scene.machine.reset()
    await until(lambda: "RESET" in scene.events)
    scene.machine.resume()
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.events.count("RESET") == 1
    assert scene.guest.calls[-1] == "thaw"
    await scene.machine.close()


@plays
async def test_a_crash_may_be_reported_and_nothing_more() -> None:
    scene = acting(PanicAction.NONE)
    await scene.machine.start()
    scene.guest.owner.crashed(CRASH)
    assert declared(scene) == [("GUEST_PANICKED", {"action": "run", "info": INFO})]
    assert scene.machine.faults.counts["guest crash"] == 1
    assert scene.machine.run_state == "running"
    scene.guest.owner.wants_reset()
    await until(lambda: "RESET" in scene.events)
    await scene.machine.close()


@plays
async def test_the_log_has_the_last_lines_of_a_crash_and_no_command_to_a_terminal() -> None:
    scene = acting(PanicAction.NONE)
    await scene.machine.start()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dynmem.vm").addHandler(handler)
    try:
        scene.guest.owner.crashed(GuestCrash(CRASH.parameters, "first\n" * 99 + TEXT + "x" * 5000))
    finally:
        logging.getLogger("dynmem.vm").removeHandler(handler)
    (line,) = lines
    assert "0xf4, 0x1, 0x2, 0x4000, 0x56" in line
    assert r"[ 2.5] Kernel panic - \x1b[2Jsyncing | xxx" in line
    assert line.isprintable()
    assert len(line) < 1200
    await scene.machine.close()


@plays
async def test_every_processor_is_listed_with_its_thread() -> None:
    scene = Scene(vp_count=2)
    assert await ask(scene.machine, "query-cpus-fast") == [
        {
            "cpu-index": number,
            "qom-path": f"/machine/unattached/device[{number}]",
            "thread-id": 0,
            "props": {"socket-id": 0, "core-id": number, "thread-id": 0},
            "target": "x86_64",
        }
        for number in (0, 1)
    ]
    await scene.machine.start()
    cpus = await ask(scene.machine, "query-cpus-fast")
    read(commands(scene.machine)["query-cpus-fast"].returns, cpus, "cpus")
    assert isinstance(cpus, list)
    assert [cpu["thread-id"] for cpu in cpus] == [1000, 1001]
    for cpu in cpus:
        kind = await ask(scene.machine, "qom-get", path=cpu["qom-path"], property="type")
        assert kind == "x86_64-cpu"
    await scene.machine.close()


@plays
async def test_what_a_guest_reports_of_a_dimm_by_acpi_is_passed_on_and_a_refusal_ends_the_request() -> None:
    async with with_dimm() as scene:
        for status in (0x80, 0x81):
            scene.machine.dimms.request_unplug("x")
            assert scene.machine.dimms.is_unplugging("x")
            await scene.acts((0, (3, 0x84)), (0, (1, status)), (0, (0x200, status)))
            assert scene.machine.dimms.is_unplugging("x")
            await scene.acts((0, (0x103, status)), (0, (3, status)))
            assert not scene.machine.dimms.is_unplugging("x")
        reported = [data["info"] for name, data in declared(scene) if name == "ACPI_DEVICE_OST"]
        assert reported[1] == {"device": "x", "slot": "0", "slot-type": "DIMM", "source": 1, "status": 0x80}
        assert len(reported) == 10
        refused = [data for name, data in declared(scene) if name == "DEVICE_UNPLUG_GUEST_ERROR"]
        assert refused == [{"device": "x", "path": "/machine/peripheral/x"}] * 2
        with pytest.raises(QmpCommandError, match="command is not supported, missing ACPI device"):
            await ask(scene.machine, "query-acpi-ospm-status")  # as the machine has no kernel
        assert scene.guest.calls.count("unplug") == 2
        assert scene.machine.faults.counts == {}


@pytest.mark.parametrize("is_asked", [True, False])
@plays
async def test_a_guest_may_eject_a_dimm_whether_it_is_asked_to_or_not(is_asked: bool) -> None:
    async with with_dimm() as scene:
        if is_asked:
            scene.machine.dimms.request_unplug("x")
        await scene.acts((0, None), (0, (3, 0)))
        assert [each for each in declared(scene) if each[0] != "BALLOON_CHANGE"] == [
            ("DEVICE_DELETED", {"device": "x", "path": "/machine/peripheral/x"}),
            ("ACPI_DEVICE_OST", {"info": {"slot": "0", "slot-type": "DIMM", "source": 3, "status": 0}}),
        ]
        assert not scene.machine.objects.is_busy("a")
        assert not scene.machine.dimms.is_unplugging("x")
        await scene.until_actual(BOOT)


@contextlib.asynccontextmanager
async def with_dimm() -> AsyncIterator[Scene]:
    """A guest with ACPI, and a DIMM x in slot 0."""
    scene = Scene()
    scene.guest.has_acpi = True
    await scene.machine.start()
    scene.machine.dimms.plug(DimmOptions("a", "x"))
    await scene.until_actual(BOOT + 2 * MIB)
    yield scene
    await scene.machine.close()
