"""A manager whose file names a libvirt that it cannot have: the others are served all the same."""

import signal
from pathlib import Path

import pytest
from tests.rigs.libvirtd import require
from tests.rigs.managers import ObedientVm, cli, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.scenes import play


@pytest.fixture
def without_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of programs that cannot import libvirt's module, installed or not."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "libvirt.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.usefixtures("without_the_module")
def test_a_manager_without_libvirts_module_says_so_and_serves_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        path = configured(tmp_path, "observe", web="")
        said = path.read_text().replace("[manager]", '[manager]\n        libvirt = "qemu:///system"')
        domain = '[[vm]]\nname = "db"\nlibvirt = "db"\nminimum = "64MiB"\nmaximum = "128MiB"\n'
        path.write_text(f"{said}\n{domain}")
        code, _, err = await cli("run", "--config", path, "--check")
        assert code == 0
        assert "note: libvirt's module for Python is not installed: run `pip install dynmem[libvirt]`" in err
        async with listening(tmp_path / "web.qmp", ObedientVm().serve), managing(path) as manager:
            await manager.until(lambda status: status.vms[0].run_state == "running")
            status = await manager.until(
                lambda status: "pip install dynmem[libvirt]" in (status.vms[1].problem or "")
            )
            assert (status.vms[1].name, status.vms[1].run_state) == ("db", "absent")
            (line,) = [line for line in manager.lines if " libvirt: " in line]
            assert "or install Debian's python3-libvirt" in line
            reply = await manager.ask(command="admit", name="db", size_bytes=1 << 27, monitor="/x", wait_ns=0)
            assert "is a domain of libvirt" in str(reply)
            assert await manager.end() == 0

    play(scene())


def test_a_reload_takes_up_a_libvirt_and_drops_it_again(tmp_path: Path) -> None:
    """The driver is libvirt's own for tests: a domain without a process, inside the library."""
    require()

    async def scene() -> None:
        path = configured(tmp_path, "observe")
        without = path.read_text()
        domain = '[[vm]]\nname = "played"\nlibvirt = "test"\nminimum = "64MiB"\nmaximum = "2GiB"\n'
        async with managing(path) as manager:
            named = without.replace("[manager]", '[manager]\n        libvirt = "test:///default"')
            path.write_text(f"{named}\n{domain}")
            manager.process.send_signal(signal.SIGHUP)
            status = await manager.until(lambda status: [vm.run_state for vm in status.vms] == ["running"])
            assert status.vms[0].actual_bytes == 2 << 30
            path.write_text(without)
            manager.process.send_signal(signal.SIGHUP)
            await manager.until(lambda status: not status.vms)
            assert any("libvirt none -> test:///default" in line for line in manager.lines)
            assert await manager.end() == 0

    play(scene())
