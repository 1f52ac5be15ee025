"""The Ansible role, on hosts with roots of their own: what it configures, reloads, removes and refuses."""

import json
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.history.test_report import rows_of
from tests.rigs.ansible_hosts import (
    FOLDER,
    PROGRAMS,
    Controller,
    Host,
    Played,
    Reached,
    hosts,
    needs_ansible,
    needs_roots,
)
from tests.rigs.pasts import written
from tests.rigs.scenes import wait_until
from tests.rigs.systemd_host import needs_systemd, systemd_host

pytestmark = [needs_ansible, needs_roots]

# dynmem is on the hosts already: its own checkout.
FLEET: dict[str, Any] = {
    "dynmem_install": "none",
    "dynmem_find_vms": False,
    "dynmem_doctor": False,
    "dynmem_config": {"host": {"budget": "1GiB", "slush": "64MiB"}},
    "dynmem_drop_in_10_fleet": {"manager": {"period": "2s"}},
}
WEB = {"name": "web", "qmp": "/run/vm/web.qmp", "minimum": "128MiB", "maximum": "512MiB"}
FIRST = {"dynmem_drop_in_50_web": {"vm": [WEB]}}
SECOND = {"dynmem_drop_in_50_acts": {"manager": {"mode": "enforce"}}}
NAMESPACES = ("-m", "-p", "-u", "-i", "-n", "-C")  # those of a systemd of its own
WRITE, RUN, RELOAD = "Write the configuration, if it is right", "Have the service run", "Reload dynmem"
CONFIG, DROP_INS = "etc/dynmem/config.toml", "etc/dynmem/config.d"


class Look(NamedTuple):
    """A host after a playbook.

    Attributes:
        asked: What was asked of systemd.
        files: Its configuration: the texts of the files.
        period_s: What the manager's status says of its period; None: no manager runs.
        left: What is on the host that was not.
    """

    asked: list[str]
    files: dict[str, str]
    period_s: float | None
    left: set[str]


def period(host: Host) -> float:
    return float(json.loads(host.dynmem("status", "--json"))["period_ns"] / 1e9)


def look(host: Host, period_s: float | None = None) -> Look:
    """Return it, once its manager has read its files again and has this period."""
    names = (CONFIG, *(f"{DROP_INS}/{name}.toml" for name in ("10-fleet", "50-web", "50-acts")))
    files = {name: host.read(name) for name in names if (host.root / name).exists()}
    runs = (host.root / "run/dynmem/api.sock").exists()
    if runs and period_s is not None:
        wait_until(lambda: period(host) == period_s, otherwise=lambda: period(host))
    return Look(host.asked_of_systemd(), files, period(host) if runs else None, host.left())


class Story(NamedTuple):
    """Three playbooks on two hosts, and each host after each."""

    machines: list[Host]
    played: list[Played]
    looks: list[list[Look]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play it once for all tests: Ansible takes seconds."""
    folder = tmp_path_factory.mktemp("ansible")
    told: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (FIRST, SECOND),
        ({**FIRST, "dynmem_drop_in_10_fleet": {"manager": {"period": "3s"}}}, SECOND),
        (
            {"dynmem_drop_in_50_web": {"vm": [{**WEB, "minimum": "1TiB"}]}},
            {**SECOND, "dynmem_state": "absent", "dynmem_purge": True},
        ),
    ]
    with hosts(folder, "first", "second") as machines:
        controller = Controller(folder, machines)
        played, looks = [], []
        for (first, second), period_s in zip(told, (2, 3, 3), strict=True):
            played.append(controller.play(kvm=FLEET, first=first, second=second))
            looks.append([look(machines[0], period_s), look(machines[1])])
        yield Story(machines, played, looks)


def test_a_first_run_configures_each_host_by_its_own_variables_and_starts_it(story: Story) -> None:
    run, (first, second) = story.played[0], story.looks[0]
    assert run.code == 0, run.text
    assert all(run.tasks(host, "changed") == [WRITE, RUN] for host in story.machines), run.text
    assert first.asked == second.asked == ["enable dynmem", "start dynmem"]
    assert set(first.files) == {CONFIG, f"{DROP_INS}/10-fleet.toml", f"{DROP_INS}/50-web.toml"}
    assert set(second.files) == {CONFIG, f"{DROP_INS}/10-fleet.toml", f"{DROP_INS}/50-acts.toml"}
    assert tomllib.loads(first.files[f"{DROP_INS}/50-web.toml"]) == {"vm": [WEB]}
    assert (first.period_s, second.period_s) == (2, 2)
    assert "observe: 1 VMs share 1.00 GB" in run.text
    assert "enforce: 0 VMs share 1.00 GB" in run.text


def test_a_changed_variable_reloads_the_manager_and_does_not_restart_it(story: Story) -> None:
    run, first = story.played[1], story.looks[1][0]
    assert run.tasks(story.machines[0], "changed") == [WRITE, RELOAD], run.text
    assert first.asked == ["reload dynmem"]
    assert first.period_s == 3


def test_a_second_run_changes_nothing_and_asks_nothing_of_systemd(story: Story) -> None:
    run, before, after = story.played[1], story.looks[0][1], story.looks[1][1]
    assert run.code == 0, run.text
    assert run.tasks(story.machines[1], "changed") == [], run.text
    assert after == before._replace(asked=[])


def test_a_wrong_variable_is_refused_with_the_old_files_in_place_and_the_manager_running_by_them(
    story: Story,
) -> None:
    run, before, after = story.played[2], story.looks[1][0], story.looks[2][0]
    assert run.code == 2
    assert run.tasks(story.machines[0], "fatal") == [WRITE], run.text
    assert "nothing was changed" in run.text
    assert f"/{DROP_INS}/50-web.toml" in run.text  # and not where it was staged
    assert after == before._replace(asked=[])


def test_a_removal_releases_the_vms_of_a_manager_that_enforced_and_leaves_nothing(story: Story) -> None:
    run, after, host = story.played[2], story.looks[2][1], story.machines[1]
    assert run.tasks(host, "changed")[:2] == ["Release all VMs", "Stop the service"], run.text
    assert after.asked == ["disable dynmem", "stop dynmem"]
    assert (after.files, after.period_s, after.left) == ({}, None, set())


@pytest.mark.soak
def test_the_linter_has_nothing_to_say_about_it_nor_about_the_example(tmp_path: Path) -> None:
    folder = tmp_path / "ansible"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    command: list[str | Path] = [
        PROGRAMS / "ansible-lint",
        "--offline",
        "--nocolor",
        "--profile",
        "production",
    ]
    environment = {"HOME": str(tmp_path), "PATH": f"{PROGRAMS}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
@needs_systemd
def test_with_a_real_systemd_the_unit_starts_reloads_is_left_alone_and_stops(tmp_path: Path) -> None:
    unit = (FOLDER.parent / "systemd" / "dynmem.service").read_text()
    with systemd_host(tmp_path, {"dynmem.service": unit}) as machine:
        host = Reached("first", machine.pid, tmp_path, NAMESPACES)
        controller = Controller(tmp_path, [host])
        variables = {**FLEET, **FIRST, "dynmem_service_enabled": False}
        run = controller.play(kvm=variables)
        assert run.code == 0, run.text
        assert run.tasks(host, "changed") == [WRITE, RUN], run.text
        assert machine.says("systemctl is-active dynmem") == "active"
        main = machine.says("systemctl show -p MainPID --value dynmem")
        variables["dynmem_drop_in_90_host"] = {"host": {"budget": "900MiB"}}
        run = controller.play(kvm=variables)
        assert run.tasks(host, "changed") == [WRITE, RELOAD], run.text
        machine.until("systemctl show -p StatusText dynmem", "budget 900 MiB")
        run = controller.play(kvm=variables)
        assert (run.code, run.tasks(host, "changed")) == (0, []), run.text
        run = controller.play(kvm={**variables, "dynmem_drop_in_90_host": "[host"})
        assert run.tasks(host, "fatal") == [WRITE], run.text
        assert machine.says("systemctl show -p MainPID --value dynmem") == main
        run = controller.play(kvm={**variables, "dynmem_state": "absent", "dynmem_purge": True})
        assert run.code == 0, run.text
        assert machine.run("systemctl is-active dynmem").stdout.strip() == "inactive"
        assert (
            machine.says("ls -d /etc/dynmem /var/lib/dynmem /run/dynmem 2> /dev/null || echo none") == "none"
        )


@pytest.mark.soak
def test_check_mode_shows_the_difference_and_changes_nothing(tmp_path: Path) -> None:
    with hosts(tmp_path, "first") as (host,):
        controller = Controller(tmp_path, [host])
        run = controller.play("--check", "--diff", kvm=FLEET, first={**FIRST, "dynmem_find_vms": True})
        assert run.code == 0, run.text
        folder, found = "Have a folder for the VMs of this host", "Find the VMs of this host"
        assert run.tasks(host, "changed") == [folder, found, WRITE, RUN], run.text
        assert '+maximum = "512MiB"' in run.text
        assert look(host) == Look([], {}, None, set())
        assert controller.play(kvm=FLEET, first=FIRST).code == 0
        before = look(host)
        run = controller.play("--check", "--diff", kvm=FLEET, first={})
        assert run.tasks(host, "changed") == [WRITE, RELOAD], run.text
        assert '-maximum = "512MiB"' in run.text
        assert look(host) == before._replace(asked=[])
        assert controller.play(kvm=FLEET, first={}).code == 0
        assert f"{DROP_INS}/50-web.toml" not in look(host).files
        run = controller.play(kvm={**FLEET, "dynmem_doctor": True, "dynmem_service_state": "stopped"})
        assert (run.code, run.tasks(host, "changed")) == (0, [RUN]), run.text
        assert "not started" in run.text
        gone = {"dynmem_state": "absent", "dynmem_purge": True}
        assert controller.play(kvm=FLEET, first=gone).code == 0
        run = controller.play(kvm=FLEET, first=gone)
        assert run.code == 0, run.text
        assert run.tasks(host, "changed") == [], run.text
        assert look(host).left == set()


@pytest.mark.soak
def test_a_playbook_says_how_many_more_vms_fit_on_all_hosts(tmp_path: Path) -> None:
    rows = rows_of({"web": [300] * 12, "db": [200] * 12}, for_ds=6000)
    late = time.time_ns() // 1_000_000 - rows[-1].at_ms - 3_600_000
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    written(state, [row._replace(at_ms=row.at_ms + late) for row in rows])
    with hosts(tmp_path, "first", "second", "third") as machines:
        for host in machines[:2]:
            shutil.copytree(state, host.root / "var/lib/dynmem")
        run = Controller(tmp_path, machines).play("-e", "like=first/web", playbook="fit.yml")
        assert run.tasks(machines[2], "fatal") == ["Ask for it"], run.text  # it has no history
        assert "2 more VMs like first/web (300 MiB at most) fit on 2 hosts" in run.text, run.text
        assert "the next should go to" in run.text
