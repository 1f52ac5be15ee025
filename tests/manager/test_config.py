"""The configuration file: what is right is taken as written, what is wrong is named in one sentence."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.errors import ConfigError, ExitCode
from dynmem.limits import (
    MANAGER_CONFIG_BYTES_MAX,
    MANAGER_NAME_MAX,
    MANAGER_VMS_MAX,
    UNIX_PATH_BYTES_MAX,
    WEIGHT_MAX,
)
from dynmem.manager import config
from dynmem.manager.config_file import VmTable
from dynmem.manager.reload import changes
from dynmem.manager.step.facts import VmConfig
from dynmem.units import GIB, MIB, NS_PER_S, format_size, parse_duration

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "config.md"

GOOD = """
[host]
budget = "8GiB"
slush = "256MiB"

[manager]
mode = "enforce"
period = "500ms"
socket = "/tmp/dynmem-test/api.sock"
state = "/tmp/dynmem-test/state"

[[vm]]
name = "web"
qmp = "/run/vm/web.qmp"
minimum = "512MiB"
maximum = "4GiB"
buffer = 25
weight = 7000
priority = "high"

[[vm]]
name = "db"
qmp = "/run/vm/db.qmp"
minimum = 536870912
maximum = "2G"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def test_every_key_arrives_as_it_was_written(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, GOOD))
    assert found.settings.budget_bytes == 8 * GIB
    assert found.settings.slush_bytes == 256 * MIB
    assert found.settings.mode == "enforce"
    assert found.settings.period_ns == NS_PER_S // 2
    assert found.socket == Path("/tmp/dynmem-test/api.sock")
    assert found.state == Path("/tmp/dynmem-test/state")
    web, db = found.vms
    assert (web.minimum_bytes, web.maximum_bytes) == (512 * MIB, 4 * GIB)
    assert (web.buffer_percent, web.weight, web.priority) == (25, 7000, "high")
    assert (db.minimum_bytes, db.maximum_bytes) == (512 * MIB, 2 * GIB)
    assert (db.buffer_percent, db.weight, db.priority) == (20, 5000, "normal")
    assert found.monitors == {"web": Path("/run/vm/web.qmp"), "db": Path("/run/vm/db.qmp")}


def test_a_monitor_is_borrowed_where_it_is_a_keepers_own_or_the_file_says_so(tmp_path: Path) -> None:
    theirs = GOOD.replace("/run/vm/web.qmp", "/run/qemu-server/100.qmp")
    said = GOOD.replace('name = "web"', 'name = "web"\nmonitor = "borrowed"')
    denied = theirs.replace('name = "web"', 'name = "web"\nmonitor = "own"')
    kinds = [
        [vm.monitor for vm in config.load(written(tmp_path, text)).vms]
        for text in (GOOD, theirs, said, denied)
    ]
    assert kinds == [["own", "own"], ["borrowed", "own"], ["borrowed", "own"], ["own", "own"]]
    before, after = (config.load(written(tmp_path, text)) for text in (GOOD, said))
    (line,) = changes(before, after)
    assert line == "web: reached by monitor /run/vm/web.qmp (own) -> monitor /run/vm/web.qmp (borrowed)"
    with pytest.raises(ConfigError, match="'shared' is not one of auto, own, borrowed"):
        config.load(written(tmp_path, said.replace("borrowed", "shared")))
    with pytest.raises(ConfigError, match="'kill' is not one of wait, squeeze"):
        config.load(written(tmp_path, GOOD.replace("weight = 7000", 'on_shortage = "kill"')))


def test_to_compare_two_configurations_the_way_to_each_vm_is_put_into_words_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worded: list[str] = []
    way = config.Config._way

    def counted(self: config.Config, vm: VmConfig) -> str:
        worded.append(vm.name)
        return way(self, vm)

    found = config.load(written(tmp_path, GOOD))
    monkeypatch.setattr(config.Config, "_way", counted)
    assert list(changes(found, found)) == []
    assert worded == ["web", "db"] * 2


def test_a_manager_only_observes_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, '[host]\nbudget = "1GiB"\n'))
    assert found.settings.mode == "observe"
    assert found.settings.period_ns == NS_PER_S


WRONG = {
    "an unknown key": ('slush = "256MiB"', 'slosh = "256MiB"', ["host.slosh", "did you mean 'slush'?"]),
    "a key in the wrong table": (
        'slush = "256MiB"',
        'mode = "enforce"',
        ["host.mode: unknown key: it belongs in [manager]"],
    ),
    "a key of a VM in another table": (
        'period = "500ms"',
        "weight = 7",
        ["manager.weight: unknown key: it belongs in [[vm]]"],
    ),
    "a budget without a unit": (
        'budget = "8GiB"',
        "budget = 12",
        ["host.budget: 12 B is below 16 MiB: did you mean 12GiB?"],
    ),
    "a minimum without a unit": (
        'minimum = "512MiB"',
        "minimum = 2048",
        ["vm 'web'.minimum: 2048 B is below 16 MiB: did you mean 2048MiB?"],
    ),
    "a budget without a unit in quotes": (
        'budget = "8GiB"',
        'budget = "24"',
        ["host.budget: 24 B is below 16 MiB: did you mean 24GiB?"],
    ),
    "a slush without a unit": (
        'slush = "256MiB"',
        "slush = 256",
        ["host.slush: 256 B is below 1 MiB: did you mean 256GiB?"],
    ),
    "a budget below every guest": (
        'budget = "8GiB"',
        'budget = "8MiB"',
        ["host.budget: 8 MiB is below 16 MiB: raise it"],
    ),
    "a default slush above budget": (
        'budget = "8GiB"\nslush = "256MiB"',
        'budget = "100MiB"',
        ["host.slush: 256 MiB, the default, is not below the budget of 100 MiB: set a lower one"],
    ),
    "an unknown table": ("[manager]", "[manger]", ["manger", "did you mean 'manager'?"]),
    "an unknown key of a VM": ("weight = 7000", "wait = 7000", ["vm 'web'.wait", "did you mean 'weight'?"]),
    "a missing key": ('qmp = "/run/vm/db.qmp"', "", ["vm 'db'.qmp", "missing"]),
    "a wrong type": (
        "buffer = 25",
        'buffer = "25"',
        ["vm 'web'.buffer", "write a whole number without quotes"],
    ),
    "minimum above maximum": ('"512MiB"', '"5GiB"', ["vm 'web'.minimum", "5 GiB", "maximum of 4 GiB"]),
    "a minimum that never fits": ('budget = "8GiB"', 'budget = "600MiB"', ["'web'.minimum", "never start"]),
    "a size that is none": ('"4GiB"', '"4 gigs"', ["vm 'web'.maximum", "'4 gigs' is not a size"]),
    "a number without end": ("536870912", "1" * 5000, ["it has a number of thousands of digits"]),
    "a number of thousands of bits": (
        "536870912",
        "0x" + "f" * 5000,
        ["vm 'db'.minimum: a number above 64 bits"],
    ),
    "a weight of thousands of bits": (
        "weight = 7000",
        "weight = 0x" + "f" * 5000,
        ["vm 'web'.weight: a number"],
    ),
    "a size of 400 digits": (
        '"512MiB"',
        f'"{"9" * 400}"',
        ["vm 'web'.minimum: '999", "...", "is not a size"],
    ),
    "control characters in a key": (
        "weight = 7000",
        '"wait\\u001b[2J\\n" = 7',
        ["vm 'web'.'wait\\x1b[2J\\n': unknown key"],
    ),
    "a backtick in a key": (
        "weight = 7000",
        '"we`ight" = 7',
        ["'we`ight': unknown key: did you mean 'weight'?"],
    ),
    "a key of a table that is none": ("[manager]", '["\\u0007"]', ["'\\x07': unknown key"]),
    "control characters in a word": ('"high"', '"\\u001b[2J"', ["vm 'web'.priority: '\\x1b[2J' is not one"]),
    "a key of many parts": ("weight = 7000", "a" + ".a" * 60_000 + " = 1", ["line 18: a key of more than 8"]),
    "a table of many parts": ("[manager]", "[a" + ". 'a' " * 60_000 + "]", ["line 6: a key of more than 8"]),
    "a negative size": ("536870912", "-5", ["vm 'db'.minimum", "-5 is not a memory size"]),
    "slush above budget": ('"256MiB"', '"9GiB"', ["host.slush", "9 GiB", "8 GiB"]),
    "a weight out of range": ("weight = 7000", "weight = 0", ["vm 'web'.weight", "0 is outside 1 to 10000"]),
    "a buffer out of range": ("buffer = 25", "buffer = -1", ["vm 'web'.buffer", "-1 is outside 0 to 1000"]),
    "a wrong priority": ('"high"', '"urgent"', ["vm 'web'.priority", "urgent"]),
    "a history that holds nothing": (
        "[manager]",
        '[manager]\nhistory = "1MiB"',
        ['manager.history: 1 MiB is below 16 MiB: raise it, or write "0" for none'],
    ),
    "a wrong mode": ('"enforce"', '"manage"', ["manager.mode", "manage"]),
    "a period out of range": ('"500ms"', '"1ms"', ["manager.period", "100ms to 1h"]),
    "a period that is none": ('"500ms"', '"often"', ["manager.period", "'often' is not a duration"]),
    "a name twice": ('name = "db"', 'name = "web"', ["vm number 2.name", "'web' is used by an earlier VM"]),
    "a socket twice": ("db.qmp", "web.qmp", ["vm number 2.qmp", "used by an earlier VM"]),
    "a monitor as the manager's socket": (
        "/tmp/dynmem-test/api.sock",
        "/run/vm/web.qmp",
        ["manager.socket", "vm 'web'"],
    ),
    "a name with a slash": ('name = "db"', 'name = "../db"', ["vm number 2.name", "'../db' is not a name"]),
    "a relative socket": ('"/run/vm/db.qmp"', '"db.qmp"', ["vm 'db'.qmp", "not an absolute path"]),
    "control characters in a path": (
        '"/run/vm/db.qmp"',
        '"/run/\\u001b[2J"',
        ["'db'.qmp: '/run/\\x1b[2J' has control"],
    ),
    "a socket too long": ("/run/vm/db.qmp", "/" + "x" * 120, ["vm 'db'.qmp", "107 bytes"]),
    "broken TOML": ("[host]", "[host", ["not TOML", "line 2"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_file_key_and_next_step(case: str, tmp_path: Path) -> None:
    before, after, words = WRONG[case]
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    for word in words:
        assert word in sentence
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_page_about_the_file_is_what_the_classes_say() -> None:
    command = [sys.executable, "-m", "scripts.config", "--print"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert made == PAGE.read_text(), "run python -m scripts.config"


def test_the_page_about_the_file_names_every_bound() -> None:
    rows = {line.split("`")[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert f"1 to {WEIGHT_MAX}:" in rows["weight"]
    assert f"0 to {config.BUFFER_PERCENT_MAX}." in rows["buffer"]
    assert f"at least {format_size(config.MINIMUM_BYTES_MIN)}," in rows["minimum"]
    assert f"up to {MANAGER_NAME_MAX} letters" in rows["name"]
    for key in ("qmp", "socket"):
        assert f"at most {UNIX_PATH_BYTES_MAX} bytes" in rows[key]
    low, high = rows["period"].split(": ")[1].split(". ")[0].split(" to ")
    assert (parse_duration(low), parse_duration(high)) == (config.PERIOD_NS_MIN, config.PERIOD_NS_MAX)
    assert f"at most {MANAGER_VMS_MAX} times" in PAGE.read_text()


def test_the_file_that_the_page_shows_has_every_key_of_a_vm() -> None:
    shown = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    keys = {line.split(" = ")[0] for line in shown.partition("[[vm]]")[2].splitlines() if " = " in line}
    assert keys == set(VmTable.__struct_fields__)


def test_the_file_that_the_page_shows_is_a_right_one(tmp_path: Path) -> None:
    shown = PAGE.read_text().split("```toml\n")[1].split("```")[0]
    found = config.load(written(tmp_path, shown))
    assert [vm.name for vm in found.vms] == ["web", "db"]
    assert (list(found.monitors), found.domains) == (["web"], {"db": "db"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read \(No such file"):
        config.load(tmp_path / "absent.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="byte 0 is not UTF-8"):
        config.load(path)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        config.load(path)


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for wrong in (path, Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match=r"not a regular file|Is a directory"):
            config.load(wrong)


def test_a_byte_order_mark_in_front_is_read_over_and_one_inside_is_an_error(tmp_path: Path) -> None:
    assert config.load(written(tmp_path, "\ufeff" + GOOD)).settings.budget_bytes == 8 * GIB
    with pytest.raises(ConfigError, match="not TOML"):
        config.load(written(tmp_path, GOOD.replace("[manager]", "\ufeff[manager]")))


def test_dots_in_strings_and_remarks_are_no_parts_of_a_key(tmp_path: Path) -> None:
    dots = "a." * 20 + "a"
    remarked = GOOD.replace("/run/vm/db.qmp", f"/{dots}").replace("weight = 7000", f"# {dots}\nweight = 7000")
    found = config.load(written(tmp_path, remarked.replace('"web"', f'"{dots}"')))
    assert found.monitors == {dots: Path("/run/vm/web.qmp"), "db": Path(f"/{dots}")}


@pytest.mark.parametrize(
    "piece", ["a", "'", '"', "a.", "a ", "'''", '"""', '\\"""x', "#", "[", "a.a\n", "\\"]
)
def test_a_text_without_sense_is_refused_in_time_that_grows_with_its_length(
    piece: str, tmp_path: Path
) -> None:
    """Time that grew with its square would be minutes."""
    text = piece * (MANAGER_CONFIG_BYTES_MAX // len(piece))
    with pytest.raises(ConfigError):
        config.load(written(tmp_path, text))


def test_a_monitor_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    def checked(first: Path | str, second: Path | str) -> None:
        text = GOOD.replace("/run/vm/web.qmp", str(first)).replace("/run/vm/db.qmp", str(second))
        config.check_monitors(config.load(written(tmp_path, text)))

    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(tmp_path)
    checked(tmp_path / "absent", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"vm 'web'\.qmp: .*/folder is a folder: name the socket"):
        checked(folder, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"vm 'db'\.qmp: .*/hosts.toml is not a socket"):
        checked(tmp_path / "absent", tmp_path / "hosts.toml")
    for spelled in (f"{tmp_path}//absent", f"{folder}/../absent", link / "absent"):
        with pytest.raises(ConfigError, match=r"vm 'db'\.qmp: .* is the same socket as that of vm 'web'"):
            checked(tmp_path / "absent", spelled)
    managers = GOOD.replace("/tmp/dynmem-test/api.sock", f"{link}/absent")
    managers = managers.replace("/run/vm/web.qmp", f"{tmp_path}/absent")
    with pytest.raises(ConfigError, match=r"vm 'web'\.qmp: .* is the same socket as manager\.socket"):
        config.check_monitors(config.load(written(tmp_path, managers)))
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(str(tmp_path / "monitor"))
        os.link(tmp_path / "monitor", tmp_path / "twin")
        with pytest.raises(ConfigError, match="the same socket"):
            checked(tmp_path / "monitor", tmp_path / "twin")


def test_floors_that_cannot_all_run_are_warned_about(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, GOOD.replace('"8GiB"', '"1GiB"')))
    first, second, third, fourth = config.warnings(found, 512 * MIB)
    assert "host.budget is 1 GiB, but this host has 512 MiB" in first
    assert "add up to 1 GiB" in second
    assert third == "vm 'web'.maximum is 4 GiB, above what this host has (512 MiB): no plan reaches it"
    assert fourth.startswith("vm 'db'.maximum is 2 GiB")
    (note,) = config.warnings(config.load(written(tmp_path, GOOD.replace('"4GiB"', '"64GiB"'))), 64 * GIB)
    assert note.startswith("vm 'web'.maximum is 64 GiB, above the budget less slush (7.75 GiB)")
    assert config.warnings(config.load(written(tmp_path, GOOD)), 64 * GIB) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_file_raises_anything_but_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever stands in the file, it is either taken or refused with a ConfigError."""
    path = tmp_path_factory.getbasetemp() / "hosts.toml"
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        piece = data.draw(
            st.sampled_from(
                ["[vm]", "vm = 3", "[[host]]", "name = []", "x = {", "budget = 1e99", "weight = nan"]
            )
            | st.text(max_size=12)
        )
        lines[index] = piece
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigError):
        config.load(path)


LIBVIRT = """
    [host]
    budget = "1GiB"
    [manager]
    {}
    [[vm]]
    name = "web"
    minimum = "64MiB"
    maximum = "256MiB"
    {}
"""
WAYS = {
    "neither": ("", "", "vm 'web'.qmp: missing: add qmp = ..., or libvirt = ..."),
    "both": ('libvirt = "qemu:///system"', 'qmp = "/run/a"\nlibvirt = "web"', "leave out libvirt or qmp"),
    "no libvirt": ("", 'libvirt = "web"', 'needs manager.libvirt: add libvirt = "qemu:///system"'),
    "a remote one": ('libvirt = "qemu+ssh://host/system"', 'libvirt = "web"', "is no libvirt of this host"),
    "no name": ('libvirt = "qemu:///system"', 'libvirt = "a\\u0007"', "is no name of a domain"),
}


@pytest.mark.parametrize(("manager", "vm", "said"), WAYS.values(), ids=WAYS)
def test_a_vm_is_reached_in_one_way(tmp_path: Path, manager: str, vm: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(written(tmp_path, LIBVIRT.format(manager, vm)))
    assert said in str(caught.value)


def test_a_domain_of_libvirt_is_a_vm_without_a_monitor(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, LIBVIRT.format('libvirt = "qemu:///system"', 'libvirt = "www"')))
    assert (found.libvirt, found.domains, found.monitors) == ("qemu:///system", {"web": "www"}, {})
    assert found.ways["web"] == "domain www of qemu:///system"
