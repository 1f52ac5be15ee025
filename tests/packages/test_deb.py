"""The packages for Debian: installed, run, upgraded, removed and purged below a root of their own."""

import json
import os
import shutil
import signal
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from tests.packages.made import EPOCH, Made, lend_what_it_needs, output
from tests.rigs.scenes import wait_until

from dynmem import __version__
from scripts import deb, dist, man

BOOKWORM, TRIXIE = deb.RELEASES

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None or not Path(f"/usr/bin/python{BOOKWORM.python}").exists(),
    reason="needs dpkg-deb and the Python of Debian 12",
)


class Root:
    """A root for dpkg. Maintainer scripts run on the host and are given its path: DPKG_ROOT."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for each in ("info", "updates", "triggers"):
            (folder / "var/lib/dpkg" / each).mkdir(parents=True)
        (folder / "var/lib/dpkg/status").touch()
        self.python = folder / deb.PRIVATE / "bin" / "python"

    def dpkg(self, *arguments: str | Path) -> None:
        options = (
            "--force-script-chrootless",
            "--force-depends",
            "--force-not-root",
            "--force-unsafe-io",
            "--log=/dev/null",
        )
        output("dpkg", f"--root={self.folder}", *options, *arguments)

    def dynmem(self, *arguments: str | Path) -> str:
        return output(self.python, "-I", self.folder / "usr/bin/dynmem", *arguments)

    def names(self) -> set[str]:
        """Return what stands below it, but for dpkg's and systemd's own notes."""
        found = (
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if not path.is_dir()
        )
        return {name for name in found if not name.startswith(("var/lib/dpkg", "var/lib/systemd"))}


@pytest.fixture(scope="module")
def package(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package without what dynmem needs: fetching and packing that takes a minute (-m soak)."""
    sdist, wheel, built = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
        return deb.build(sdist, [wheel], tmp_path_factory.mktemp("deb"), BOOKWORM, built, level=0)


@pytest.fixture
def root(package: Path, tmp_path: Path) -> Root:
    made = Root(tmp_path / "root")
    made.dpkg("--install", package)
    lend_what_it_needs(made.folder / BOOKWORM.site_packages)
    return made


def field(package: Path, name: str) -> str:
    return output("dpkg-deb", "--field", package, name).strip()


def observed(root: Root, folder: Path) -> dict[str, Any]:
    """Return the status of a manager that runs as the package comes, with what `dynmem config init` adds."""
    config = root.folder / "etc/dynmem"
    root.dynmem("config", "init", folder, "-o", config / "config.d" / "vms.toml")
    elsewhere = folder / "config.toml"
    shutil.copytree(config, folder, dirs_exist_ok=True)
    with (folder / "config.d" / "zz.toml").open("w") as drop_in:
        drop_in.write(f'[manager]\nsocket = "{folder}/a"\nstate = "{folder}/s"\n')
    command: list[str | Path] = [
        root.python,
        "-I",
        root.folder / "usr/bin/dynmem",
        "run",
        "--config",
        elsewhere,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as manager:
        try:
            wait_until((folder / "a").exists, otherwise=manager.poll)
            return json.loads(root.dynmem("status", "--json", "--socket", folder / "a"))  # type: ignore[no-any-return]
        finally:
            manager.send_signal(signal.SIGINT)
            manager.communicate()


def test_it_lives_as_a_package_does_from_installation_to_purge(
    package: Path, root: Root, tmp_path: Path
) -> None:
    has = root.names()
    units = "usr/lib/systemd/system"
    assert {"etc/dynmem/config.toml", "usr/bin/dynmem", f"{units}/dynmem.service"} <= has
    assert {f"usr/share/man/man1/{name}.gz" for name in man.pages()} <= has
    assert {"usr/share/bash-completion/completions/dynmem", "usr/share/zsh/vendor-completions/_dynmem"} <= has
    link = root.folder / "etc/systemd/system/multi-user.target.wants/dynmem.service"
    assert str(link.readlink()) == f"/{units}/dynmem.service"
    assert any(name.endswith(".pyc") for name in has)
    assert f"dynmem {__version__}, " in root.dynmem("--version")
    assert json.loads(root.dynmem("scan", "--json"))["host_total_bytes"] > 0
    status = observed(root, tmp_path)
    assert (status["mode"], status["vms"]) == ("observe", [])
    # What the operator wrote survives an upgrade and a removal, and what was compiled does neither.
    config = root.folder / "etc/dynmem/config.toml"
    mine = config.read_text() + "# mine\n"
    config.write_text(mine)
    stale = root.folder / BOOKWORM.site_packages / "dynmem" / "__pycache__" / "stale.pyc"
    stale.touch()
    root.dpkg("--install", package)
    assert (config.read_text(), stale.exists()) == (mine, False)
    (root.folder / "var/lib/dynmem").mkdir()
    (root.folder / "var/lib/dynmem/journal").touch()
    lent = {name for name in root.names() if name.startswith(f"{BOOKWORM.site_packages}/")}
    root.dpkg("--remove", "dynmem")
    kept = {"etc/dynmem/config.toml", "etc/dynmem/config.d/vms.toml", "var/lib/dynmem/journal"}
    assert {name for name in root.names() - lent if "multi-user" not in name} == kept
    root.dpkg("--purge", "dynmem")
    assert root.names() - lent == {"etc/dynmem/config.d/vms.toml"}


def test_two_builds_have_the_same_bytes(
    package: Path,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = os.umask(0o077)
    try:
        again = deb.build(made.sdist, [made.wheel], tmp_path, BOOKWORM, made.commit, level=0)
    finally:
        os.umask(before)
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_what_dpkg_reads_about_it(package: Path) -> None:
    assert field(package, "Architecture") == "amd64"
    assert f"python{BOOKWORM.python}," in field(package, "Depends")
    listed = output("dpkg-deb", "--contents", package).splitlines()
    assert {line.split()[1] for line in listed} == {"root/root"}
    assert {line.split()[0][1:] for line in listed if line[0] != "l"} == {"rwxr-xr-x", "rw-r--r--"}
    assert output("dpkg-deb", "--info", package, "conffiles") == "/etc/dynmem/config.toml\n"


STUB = """#!/bin/sh
case "$(basename "$0") $*" in
    *show*) echo 'mode = "{mode}"' ;;
    *is-active*) exit {inactive} ;;
esac
echo "$(basename "$0") $*" >> {calls}
"""


@pytest.mark.parametrize(
    ("mode", "before", "running", "then"),
    [
        ("observe", "", False, ["start dynmem.service"]),
        ("enforce", "", False, []),
        ("nonsense", "", False, []),
        ("enforce", "0.1.0", True, ["restart dynmem.service", "restart dynmem-web.service"]),
        ("observe", "0.1.0", False, []),
    ],
)
def test_a_first_installation_starts_it_only_to_observe_and_an_upgrade_only_if_it_ran(
    mode: str, before: str, running: bool, then: list[str], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    for name in ("deb-systemd-helper", "deb-systemd-invoke", "systemctl", "dynmem"):
        (tmp_path / name).write_text(STUB.format(mode=mode, inactive=int(not running), calls=calls))
        (tmp_path / name).chmod(0o755)
    text = (dist.ROOT / "contrib/debian/postinst").read_text()
    assert "[ -d /run/systemd/system ]" in text
    script = text.replace("[ -d /run/systemd/system ]", "true").replace("/usr/lib/dynmem/bin/python", "true")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    output("sh", "-c", script, "postinst", "configure", before, env=environment)
    found = [line.split() for line in calls.read_text().splitlines()]
    assert ["systemctl", "--system", "daemon-reload"] in found
    assert [" ".join(words[1:]) for words in found if words[0] == "deb-systemd-invoke"] == then


def test_what_it_brings_is_what_dynmem_asks_for() -> None:
    project = tomllib.loads((dist.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(each) for each in project["dependencies"] + extras["top"] + extras["web"]]
    lines = deb.REQUIREMENTS.read_text().splitlines()
    brought = dict(line.split()[0].split("==") for line in lines if not line.startswith("#"))
    assert [each.name for each in asked if brought.get(each.name, "0") not in each.specifier] == []


def test_what_was_fetched_for_other_versions_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str | Path], **_: object) -> None:
        written = Path(command[command.index("--requirement") + 1]).read_text()
        (Path(command[command.index("--dest") + 1]) / f"{written}.whl").touch()

    monkeypatch.setattr(deb, "CACHE", tmp_path)
    monkeypatch.setattr(subprocess, "run", download)
    found = []
    for version in ("a-1", "a-2", "a-1"):
        (tmp_path / "wanted").write_text(version)
        found.append([path.name for path in deb.fetched(BOOKWORM, tmp_path / "wanted")])
    assert found == [["a-1.whl"], ["a-2.whl"], ["a-1.whl"]]


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_no_error(package: Path) -> None:
    # The authors have no address for mail.
    output(
        "lintian",
        "--fail-on",
        "error",
        "--suppress-tags",
        "bogus-mail-host,bogus-mail-host-in-debian-changelog",
        package,
    )


def test_versions_follow_time_and_a_tag_is_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = b""
    monkeypatch.setattr(dist, "git", lambda *_: tags)
    wheel = Path("dynmem-1.2.0-py3-none-any.whl")
    early, late = dist.Commit("f" * 40, "f" * 40, 10), dist.Commit("0" * 40, "0" * 40, 11)
    found = [deb.version_of(wheel, built, BOOKWORM) for built in (None, early, late)]
    tags = b"v1.2.0\n"
    found.append(deb.version_of(wheel, early, BOOKWORM))
    assert found[-1] == "1.2.0+deb12"
    found.append(deb.version_of(wheel, early, TRIXIE))
    for lower, higher in pairwise(found):
        output("dpkg", "--compare-versions", lower, "lt", higher)


@pytest.fixture(scope="module")
def whole(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    sdist, wheel, built = made
    return deb.packages(sdist, wheel, tmp_path_factory.mktemp("debs"), built)


@pytest.mark.soak
def test_with_all_that_it_needs_it_runs_on_debian_12(whole: list[Path], tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.dpkg("--install", whole[0])
    assert json.loads(root.dynmem("scan", "--json"))["host_total_bytes"] > 0
    where = output(
        root.python,
        "-I",
        "-c",
        "import textual.app, textual.widgets, dynmem.web.serve, numpy, rich; print(numpy.__file__)",
    )
    assert where.startswith(str(root.folder))


@pytest.mark.soak
def test_with_all_that_it_needs_it_runs_on_the_python_of_debian_13(whole: list[Path], tmp_path: Path) -> None:
    python = shutil.which(f"python{TRIXIE.python}")
    if python is None or subprocess.run([python, "--version"], check=False, capture_output=True).returncode:
        pytest.skip("there is no such Python here")
    output("dpkg-deb", "--extract", whole[1], tmp_path)
    link = tmp_path / deb.PRIVATE / "bin" / "python"
    link.unlink()
    link.symlink_to(output(python, "-c", "import sys; print(sys.executable)").strip())
    found = output(link, "-I", tmp_path / "usr/bin/dynmem", "scan", "--json")
    assert json.loads(found)["host_total_bytes"] > 0
