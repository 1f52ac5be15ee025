"""The hooks in contrib, run as libvirt and Proxmox run them: arguments, input, exit codes."""

import asyncio
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.rigs.managers import DYNMEM, ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.scenes import play

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
LIBVIRT = CONTRIB / "libvirt" / "dynmem-reserve"
PROXMOX = CONTRIB / "proxmox" / "dynmem-reserve"
# As libvirt writes the XML of a domain that is about to start.
DOMAIN = """<domain type='kvm' id='3'>
  <name>web</name>
  <uuid>2f2f5a2e-7b6b-4f8c-9d1e-0c4b5a6d7e8f</uuid>
  <metadata>
    <app:memory xmlns:app="http://example.org/app" unit='KiB'>1</app:memory>
    <memory unit='KiB'>2</memory>
  </metadata>
  <maxMemory slots='16' unit='KiB'>16777216</maxMemory>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <devices>
    <memory model='dimm'/>
  </devices>
</domain>
"""
# As `qm config` writes it.
VM = "balloon: 2048\nboot: order=scsi0\ncores: 2\nmemory: 4096\nname: web\nnuma: 0\n"


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Hypervisor:
    """A host whose `dynmem` and `qm` are stand-ins that record how they were called."""

    def __init__(self, folder: Path, *, code: int = 0, mode: str = "enforce", config: str = VM) -> None:
        self.folder = folder
        status = f'echo "{{"; echo \'  "mode": "{mode}",\'; exit 0'
        reserve = f"echo reserved; exit {code}"
        program(
            folder,
            "dynmem",
            f'printf "%s\\n" "$*" >> {folder}/calls\ncase $1 in status) {status};; esac\n{reserve}',
        )
        (folder / "config").write_text(config)
        program(folder, "qm", f'printf "%s\\n" "qm $*" >> {folder}/calls\ncat {folder}/config')

    def run(self, hook: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a hook as its hypervisor would: no shell, no terminal."""
        return subprocess.run(
            [hook, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={"PATH": f"{self.folder}:/usr/bin:/bin"},
        )

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


Hook = Callable[[Hypervisor], subprocess.CompletedProcess[str]]


def libvirt(host: Hypervisor, *, name: str = "web", text: str = DOMAIN) -> subprocess.CompletedProcess[str]:
    return host.run(LIBVIRT, name, "prepare", "begin", "-", text=text)


def proxmox(host: Hypervisor) -> subprocess.CompletedProcess[str]:
    return host.run(PROXMOX, "104", "pre-start")


def test_libvirts_hook_reserves_the_domains_memory_and_prints_nothing(tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    done = libvirt(host)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert host.calls == ["reserve 4194304KiB --name=web --wait=30s"]


@pytest.mark.parametrize(
    "metadata", ["<metadata><memory unit='KiB'>2</memory></metadata>", "<metadata/>", ""]
)
def test_what_others_write_into_a_domains_metadata_is_not_its_memory(metadata: str, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    text = f"<domain>\n  <name>w</name>\n  {metadata}\n  <memory unit='KiB'>1048576</memory>\n</domain>\n"
    assert libvirt(host, text=text).returncode == 0
    assert host.calls == ["reserve 1048576KiB --name=web --wait=30s"]


@pytest.mark.parametrize("name", ["--all", "a b; touch $HOME/x", "$(reboot)"])
def test_a_name_is_an_argument_and_nothing_else(name: str, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    assert libvirt(host, name=name).returncode == 0
    assert host.calls == [f"reserve 4194304KiB --name={name} --wait=30s"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("web", "migrate", "begin", "-"),
        ("web", "restore", "begin", "-"),
        ("web", "start", "begin", "-"),
        ("web", "started", "begin", "-"),
        ("web", "stopped", "end", "-"),
        ("web", "release", "end", "-"),
        ("web", "reconnect", "begin", "-"),
        ("web", "prepare", "end", "-"),
        (),
    ],
)
def test_libvirts_other_calls_are_read_to_their_end_and_change_nothing(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    host = Hypervisor(tmp_path)
    done = host.run(LIBVIRT, *arguments, text=DOMAIN * 2000)  # more than a pipe holds
    assert (done.returncode, done.stdout, done.stderr, host.calls) == (0, "", "", [])


def test_a_domain_without_memory_in_its_xml_starts_and_it_is_said(tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    done = libvirt(host, text="")
    assert (done.returncode, done.stdout, host.calls) == (0, "", [])
    assert "names no memory" in done.stderr


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VM, "reserve 4096MiB --name=web --wait=30s"),
        (VM.replace("4096", "current=8192"), "reserve 8192MiB --name=web --wait=30s"),
        ("cores: 1\n", "reserve 512MiB --name=104 --wait=30s"),
        ("description: memory%3A 1\nname: a\nmemory: 64\n", "reserve 64MiB --name=a --wait=30s"),
    ],
)
def test_proxmoxs_hook_reserves_what_the_vms_file_says(config: str, expected: str, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path, config=config)
    assert proxmox(host).returncode == 0
    assert host.calls == ["qm config 104", expected]


@pytest.mark.parametrize("phase", ["post-start", "pre-stop", "post-stop", ""])
def test_proxmoxs_other_phases_do_nothing(phase: str, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    assert (host.run(PROXMOX, "104", phase).returncode, host.calls) == (0, [])


def test_a_vm_whose_configuration_proxmox_does_not_show_starts_and_it_is_said(tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    program(tmp_path, "qm", "exit 2")
    done = proxmox(host)
    assert (done.returncode, host.calls) == (0, [])
    assert "starts without a reservation" in done.stderr


@pytest.mark.parametrize("run", [libvirt, proxmox])
@pytest.mark.parametrize(
    ("code", "mode", "starts"),
    [
        (0, "enforce", True),
        (5, "enforce", False),  # there can be no such room
        (7, "enforce", False),  # not in time
        (5, "observe", True),  # a manager that changes nothing refuses nothing
        (7, "advise", True),
        (1, "enforce", True),
        (2, "enforce", True),  # its name is none for dynmem
        (3, "enforce", True),  # no manager runs
        (4, "enforce", True),
        (127, "enforce", True),
    ],
)
def test_only_a_refusal_in_enforce_mode_keeps_a_vm_from_starting(
    run: Hook, code: int, mode: str, starts: bool, tmp_path: Path
) -> None:
    done = run(Hypervisor(tmp_path, code=code, mode=mode))
    assert (done.returncode == 0) == starts
    assert bool(done.stderr) == (code != 0)


@pytest.mark.parametrize("hook", [libvirt, proxmox])
def test_without_dynmem_a_vm_starts(hook: Hook, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path)
    (tmp_path / "dynmem").unlink()
    done = hook(host)
    assert done.returncode == 0
    assert "starts without a reservation" in done.stderr


def test_a_hook_asks_the_manager_that_runs_and_does_as_it_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        web = ObedientVm()
        config = configured(tmp_path, "enforce", "600MiB", web="", db="")
        words = shlex.join([*DYNMEM])
        program(tmp_path, "dynmem", f'DYNMEM_SOCKET={tmp_path}/run/api.sock exec {words} "$@"')
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

        async def hook(mebibytes: int) -> tuple[int, str]:
            text = DOMAIN.replace("4194304", str(mebibytes * 1024))
            process = await asyncio.create_subprocess_exec(
                *(LIBVIRT, "db", "prepare", "begin", "-"),
                stdin=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
            _, err = await process.communicate(text.encode())
            assert process.returncode is not None
            return process.returncode, err.decode()

        code, err = await hook(200)  # no manager runs yet
        assert (code, "no manager is running" in err) == (0, True)
        async with listening(tmp_path / "web.qmp", web.serve), managing(config) as manager:
            await manager.until(lambda status: status.vms[0].standing == "movable")
            assert await hook(200) == (0, "")
            status = await manager.until(lambda status: status.reservations)
            assert [(each.name, each.size_bytes >> 20) for each in status.reservations] == [("db", 200)]
            code, err = await hook(4096)
            assert (code, "not started: there is no room for 4194304KiB" in err) == (1, True)

    play(scenario())
