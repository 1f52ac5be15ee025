"""A configuration in several files: later ones add and replace, and a mistake is in the file that has it."""

import json
import os
import signal
import tomllib
from pathlib import Path

import pytest
from tests.rigs.commands import ran
from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play, until

from dynmem.cli.config_show import as_toml
from dynmem.errors import ConfigError
from dynmem.limits import MANAGER_DROP_INS_MAX
from dynmem.manager.config import check_monitors, load
from dynmem.manager.drop_ins import files_of, read
from dynmem.units import GIB, MIB

VM = """
[[vm]]
name = "{name}"
qmp = "/run/vm/{name}.qmp"
minimum = "64MiB"
maximum = "512MiB"
"""


def files(folder: Path, base: str = "[host]\nbudget = '4GiB'\n" + VM.format(name="web"), **more: str) -> Path:
    """Write a configuration and a drop-in for each keyword, and return the first file."""
    path = folder / "hosts.toml"
    path.write_text(base)
    (folder / "hosts.d").mkdir()
    for name, text in more.items():
        (folder / "hosts.d" / f"{name}.toml").write_text(text)
    return path


def test_later_files_replace_single_keys_and_add_vms(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        b_later="[host]\nslush = '128MiB'\n[[vm]]\nname = 'web'\nweight = 7000",
        a_first="[host]\nbudget = '8GiB'\nslush = '1GiB'\n[manager]\nmode = 'advise'" + VM.format(name="db"),
    )
    config = load(path)
    assert config.settings.budget_bytes == 8 * GIB
    assert config.settings.slush_bytes == 128 * MIB
    assert config.settings.mode == "advise"
    assert [(vm.name, vm.weight, vm.maximum_bytes) for vm in config.vms] == [
        ("web", 7000, 512 * MIB),
        ("db", 5000, 512 * MIB),
    ]


def test_without_a_folder_there_is_one_file_and_other_files_in_it_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    assert files_of(path) == [path]
    folder = tmp_path / "hosts.d"
    folder.mkdir()
    for name in (".hidden.toml", "a.toml~", "a.toml.dpkg-new", "README", "a.toml"):
        (folder / name).write_text("nonsense")
    assert files_of(path) == [path, folder / "a.toml"]
    assert files_of(Path("/")) == [Path("/")]
    (tmp_path / "other.d").write_text("a file of somebody else's")
    assert files_of(tmp_path / "other.toml") == [tmp_path / "other.toml"]


def test_too_many_files_and_a_folder_that_is_closed_are_named(tmp_path: Path) -> None:
    path = files(tmp_path, **{f"f{number}": "" for number in range(MANAGER_DROP_INS_MAX + 1)})
    with pytest.raises(ConfigError, match=r"hosts\.d: 101 files; at most 100 are read"):
        load(path)


WRONG = {
    "no TOML": ("[host", r"a\.toml: not TOML"),
    "an unknown key": ("[host]\nbudgte = 1", r"a\.toml: host\.budgte: unknown key: did you mean 'budget'"),
    "a wrong type": ("[host]\nbudget = true", r"a\.toml: host\.budget: is true or false"),
    "a wrong value": ("[host]\nbudget = '5'", r"a\.toml: host\.budget: 5 B is below"),
    "a wrong value of an earlier VM": (
        "[[vm]]\nname = 'web'\nweight = 0",
        r"a\.toml: vm 'web'\.weight: 0 is",
    ),
    "an earlier VM that is wrong with it": (
        "[[vm]]\nname = 'web'\nminimum = '1GiB'",
        r"a\.toml: vm 'web'\.min",
    ),
    "a VM that lacks a key": ("[[vm]]\nname = 'db'", r"a\.toml: vm 'db'\.minimum: missing: add minimum"),
    "a VM twice": (VM.format(name="db") * 2, r"a\.toml: vm number 3\.name: 'db' is used by an earlier VM"),
    "a socket twice": (
        VM.format(name="db").replace("db.qmp", "web.qmp"),
        r"a\.toml: vm number 2\.qmp: '/run",
    ),
    "one table": ("[vm]\nname = 'a'", r"a\.toml: vm: is one table: write \[\[vm\]\]"),
    "no tables": ("vm = [1]", r"a\.toml: vm number 2: is a whole number"),
    "a host that is a list": ("host = []", r"a\.toml: host: is a list"),
    "a VM without a name": ("[[vm]]\nweight = 1", r"a\.toml: vm number 2\.name: missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_reported_with_the_file_that_it_is_in(case: str, tmp_path: Path) -> None:
    text, sentence = WRONG[case]
    with pytest.raises(ConfigError, match=sentence):
        load(files(tmp_path, a=text))


def test_what_a_later_file_breaks_and_an_earlier_one_has_is_of_the_earlier(tmp_path: Path) -> None:
    path = files(tmp_path, a="[host]\nbudget = '65MiB'\nslush = '1MiB'\n[manager]\nmetrics = 'x'")
    with pytest.raises(ConfigError, match=r"a\.toml: manager\.metrics"):
        load(path)
    (tmp_path / "hosts.d" / "a.toml").write_text("[host]\nbudget = '64MiB'\nslush = '8MiB'")
    with pytest.raises(
        ConfigError, match=r"hosts\.toml: vm 'web'\.minimum: 64 MiB is above budget minus slush"
    ):
        load(path)


def test_every_key_knows_its_file(tmp_path: Path) -> None:
    path = files(tmp_path, a="[manager]\nmode = 'advise'\n[[vm]]\nname = 'web'\nbuffer = 30")
    _, origins = read(path)
    drop_in = tmp_path / "hosts.d" / "a.toml"
    assert origins.files == (path, drop_in)
    of_the_first = ("host.budget", "vm 'web'.qmp", "host.slush", "vm 'web'.weight")  # or of its table
    assert [origins.of(key) for key in of_the_first] == [path] * 4
    assert [origins.of(key) for key in ("manager.mode", "vm 'web'.buffer", "manager.period")] == [drop_in] * 3


def test_the_configuration_is_checked_and_shown_with_the_origin_of_each_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path, a="[manager]\nmode = 'advise'" + VM.format(name="db") + "weight = 6000")
    code, out, err = ran(capsys, "config", "check", "--config", path)
    assert (code, "vm db: 64 MiB to 512 MiB" in out) == (0, True), err
    code, out, _ = ran(capsys, "config", "show", "--config", path)
    assert code == 0
    lines = {line.split(" = ")[0]: line for line in out.splitlines() if "weight" in line or " = " in line}
    assert lines["mode"].endswith(f"# {tmp_path}/hosts.d/a.toml")
    assert lines["budget"].endswith(f"# {path}")
    assert lines["slush"].endswith("# default")
    assert lines["weight"].startswith("weight = 6000 ")  # the last VM's
    again = tmp_path / "again.toml"
    again.write_text(out)
    assert load(again).vms == load(path).vms
    code, out, _ = ran(capsys, "config", "show", "--json", "--config", path)
    found = {each["key"]: each for each in json.loads(out)["values"]}
    assert found["vm 'db'.weight"] == {
        "table": "vm",
        "key": "vm 'db'.weight",
        "value": 6000,
        "origin": f"{tmp_path}/hosts.d/a.toml",
    }
    assert found["host.slush"]["origin"] is None
    assert found["manager.socket"]["value"].endswith("api.sock")
    (tmp_path / "hosts.d" / "a.toml").write_text("[host")
    for command in ("check", "show"):
        code, out, err = ran(capsys, "config", command, "--config", path)
        assert (code, out, "a.toml: not TOML" in err) == (2, "", True)


def test_whatever_a_value_is_what_is_shown_is_a_configuration() -> None:
    for value in ("a\x7fb", 'say "no"\\\n', "\x1b\u2028\U0001f600", 1.5, True, ["a", "\x7f"]):
        shown = as_toml([{"table": "manager", "key": "manager.state", "value": value, "origin": None}])
        assert tomllib.loads(shown) == {"manager": {"state": value}}


def test_a_manager_sees_that_a_drop_in_came_and_reads_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = configured(tmp_path, "observe", web="")
        async with managing(path) as manager:
            (tmp_path / "hosts.d").mkdir()
            drop_in = tmp_path / "hosts.d" / "a.toml"
            drop_in.write_text("[[vm]]\nname = 'web'\nweight = 9000")
            status = await manager.until(lambda status: status.manager.config_problem)
            assert "has changed since it was read" in str(status.manager.config_problem)
            os.kill(manager.process.pid, signal.SIGHUP)
            await manager.until(lambda status: status.vm("web").weight == 9000)
            await until(lambda: any("web: weight 5000 -> 9000" in each for each in manager.lines))
            drop_in.write_text("[[vm]]\nname = 'web'\nweight = 0")
            os.kill(manager.process.pid, signal.SIGHUP)
            await until(
                lambda: any(f"{drop_in}: vm 'web'.weight: 0 is outside" in each for each in manager.lines)
            )
            assert (await manager.status()).vm("web").weight == 9000

    play(scenario())


def test_monitors_are_compared_across_files(tmp_path: Path) -> None:
    path = files(tmp_path, a=VM.format(name="db"))
    check_monitors(load(path))
