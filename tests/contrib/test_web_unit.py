"""The unit of the web page: as closed as what it reads allows, and of the manager's folders the same ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contrib.test_unit import UNIT as MANAGER
from tests.contrib.test_unit import analyzed, needs_systemd

from dynmem.errors import ExitCode
from dynmem.history.event import Event
from dynmem.history.store import Store

UNIT = MANAGER.with_name("dynmem-web.service")
# Of 10. What remains is the network of this host, which it serves.
EXPOSURE_MAX = 1.7


def lines(unit: Path = UNIT) -> dict[str, list[str]]:
    """Return the values of each key, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not key.startswith(("#", "[")):
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_its_exposure_is_low_and_without_its_hardening_it_would_not_pass(tmp_path: Path) -> None:
    limit = f"--threshold={EXPOSURE_MAX * 10:.0f}"
    found = analyzed("security", "--offline=true", limit, UNIT)
    assert found.returncode == 0, found.stdout[-200:]
    bare = tmp_path / UNIT.name
    bare.write_text(UNIT.read_text().partition("RuntimeDirectory=")[0])
    assert analyzed("security", "--offline=true", limit, bare).returncode != 0


@needs_systemd
def test_systemd_knows_every_line_of_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/dynmem", "/bin/true"))
    found = analyzed("verify", "--man=no", unit)
    assert UNIT.name not in found.stdout + found.stderr, found.stderr


def test_it_has_none_of_roots_rights_writes_nowhere_and_sees_the_managers_folders() -> None:
    unit, manager = lines(), lines(MANAGER)
    assert unit["CapabilityBoundingSet"] == [""]
    assert "ReadWritePaths" not in unit
    assert "-/var/lib/dynmem" in " ".join(unit["BindReadOnlyPaths"]).split()
    for key in ("RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"):
        assert unit[key] == manager[key]
    assert unit["Type"] == ["notify"]
    codes = {int(code) for code in unit["RestartPreventExitStatus"][0].split()}
    assert codes == {ExitCode.FAILURE, ExitCode.USAGE, ExitCode.NOT_PERMITTED}


READS = """
from pathlib import Path
from dynmem.history.past import Past
past = Past(Path("{state}"))
print(len(list(past.events())))
past.close()
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="root can become less")
def test_root_without_its_rights_reads_roots_history_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As the unit does it, and while the manager has the file open."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    store = Store(state)
    store.add([], [(1000, Event(kind="problem", text="one"))])
    (tmp_path / "reads.py").write_text(READS.format(state=state))
    script = (
        f"mount --bind {state} {state} && mount -o remount,ro,bind {state} &&"
        f" exec setpriv --bounding-set -all --inh-caps -all {sys.executable} {tmp_path}/reads.py"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    store.close()
    if "Operation not permitted" in done.stderr:
        pytest.skip("mount namespaces are not allowed here")
    assert (done.stdout, done.stderr) == ("1\n", "")
