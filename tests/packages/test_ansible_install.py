"""The Ansible role brings what is built here to a host, by apt and by pip, and removes it again."""

import shutil
import sys
from pathlib import Path

import pytest
from tests.packages.made import EPOCH, Made, lend_what_it_needs, output
from tests.rigs.ansible_hosts import Controller, hosts, needs_ansible, needs_roots

from scripts import deb

BOOKWORM = deb.RELEASES[0]
PACKAGE, FOUND = "Install the package", "Find the VMs of this host"
WRITE, RUN = "Write the configuration, if it is right", "Have the service run"
# What apt, dpkg and systemd note for themselves.
NOTES = (
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/man",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/systemd",
    "var/log",
)

pytestmark = [pytest.mark.soak, needs_ansible, needs_roots]


@pytest.mark.skipif(
    shutil.which("apt-get") is None or not Path(f"/usr/bin/python{BOOKWORM.python}").exists(),
    reason="needs apt and the Python of Debian 12",
)
def test_a_package_is_installed_by_apt_and_purged_again(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    package = deb.build(made.sdist, [made.wheel], tmp_path, BOOKWORM, made.commit, level=0)
    with hosts(tmp_path, "first") as (host,):
        libraries = host.root / BOOKWORM.site_packages
        libraries.mkdir(parents=True)
        lend_what_it_needs(libraries)
        controller = Controller(tmp_path, [host])
        variables: dict[str, object] = {"dynmem_deb": str(package)}
        run = controller.play(kvm=variables)
        assert run.code == 0, run.text
        brought = "Bring the package to the host"
        assert run.tasks(host, "changed") == [brought, PACKAGE, FOUND, RUN], run.text
        assert host.asked_of_systemd()[-1] == "start dynmem"
        assert "observe: 0 VMs share" in run.text
        assert (host.root / "usr/lib/systemd/system/dynmem.service").exists()
        run = controller.play(kvm=variables)
        assert (run.code, run.tasks(host, "changed")) == (0, []), run.text
        run = controller.play(kvm={**variables, "dynmem_state": "absent", "dynmem_purge": True})
        assert run.code == 0, run.text
        shutil.rmtree(libraries.parent.parent.parent)
        left = {name for name in host.left() if not name.startswith(NOTES)}
        assert left <= {"usr/bin/dynmem"}  # the stand-in, which the package had replaced


def test_pip_installs_it_into_an_environment_of_its_own_with_its_unit(made: Made, tmp_path: Path) -> None:
    with hosts(tmp_path, "first") as (host,):
        controller = Controller(tmp_path, [host])
        variables = {
            "dynmem_install": "pip",
            "dynmem_pip_requirement": str(made.wheel),
            "dynmem_pip_python": sys.executable,
        }
        run = controller.play(kvm=variables)
        assert run.code == 0, run.text
        assert run.tasks(host, "changed")[-3:] == [FOUND, WRITE, RUN], run.text
        assert host.asked_of_systemd() == ["daemon-reload", "enable dynmem", "start dynmem"]
        unit = host.root / "etc/systemd/system/dynmem.service"
        assert str(unit.readlink()) == "/opt/dynmem/share/dynmem/systemd/dynmem.service"
        assert "ExecStart=/opt/dynmem/bin/dynmem run" in host.read(
            "etc/systemd/system/dynmem.service.d/ansible.conf"
        )
        version = output("nsenter", "-t", str(host.pid), "-m", "/opt/dynmem/bin/dynmem", "--version")
        assert version.startswith("dynmem ")
        run = controller.play(kvm=variables)
        assert (run.code, run.tasks(host, "changed")) == (0, []), run.text
        run = controller.play(kvm={**variables, "dynmem_state": "absent", "dynmem_purge": True})
        assert run.code == 0, run.text
        assert host.left() == set()
        run = controller.play(kvm={**variables, "dynmem_state": "absent"})
        assert (run.code, run.tasks(host, "changed")) == (0, []), run.text
