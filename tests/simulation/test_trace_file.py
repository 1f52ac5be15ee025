"""Traces: one that goes out and comes in gives the same table; what is no trace is a named error."""

import json
from pathlib import Path
from random import Random

import pytest
from tests.rigs.commands import ran

from dynmem.errors import ConfigError
from dynmem.limits import LOAD_LINE_BYTES_MAX
from dynmem.simulation.described import alike
from dynmem.simulation.load import Load
from dynmem.simulation.trace_file import lines, read, write
from dynmem.units import GIB

FEW = ("--rule", "static", "--rule", "dynmem", "--jobs", "1", "--json")


def test_a_trace_that_goes_out_and_comes_in_gives_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "host.trace"
    described = ("--guests", "3", "--maximum", "512M", "--for", "4min", "--seed", "4")
    code, out, _ = ran(capsys, "simulate", *described, "--export", path)
    assert (code, "no names, no dates, no paths" in out) == (0, True)
    direct = json.loads(ran(capsys, "simulate", *described, *FEW)[1])
    read_again = json.loads(ran(capsys, "simulate", "--trace", path, "--seed", "4", *FEW)[1])
    assert direct["schema_version"] == 1
    assert read_again["source"] == f"the trace {path}"
    assert [rule["rule"] for rule in direct["rules"]] == ["dynmem", "static"]
    assert {**read_again, "source": ""} == {**direct, "source": ""}
    tighter = json.loads(ran(capsys, "simulate", "--trace", path, "--seed", "4", "--budget", "400M", *FEW)[1])
    assert tighter["budget_bytes"] == 400 << 20
    code, _, err = ran(capsys, "simulate", *described, "--export", path)
    assert (code, "exists already" in err) == (2, True)
    code, _, err = ran(capsys, "simulate", *described, "--export", tmp_path / "no" / "host.trace")
    assert (code, "name a file that can be written" in err) == (4, True)


def text_of(load: Load) -> list[bytes]:
    return list(lines(load))


SMALL = text_of(alike(2, GIB, 3000, 1))
ROW = next(at for at, line in enumerate(SMALL) if line.startswith(b"["))


@pytest.mark.parametrize(
    ("at", "line", "said"),
    [
        (0, b"\n", "line 1: "),
        (0, b'{"dynmem_trace": 1}\n', "missing required field"),
        (0, SMALL[0].replace(b'_trace":1', b'_trace":2'), "a trace of version 2; this dynmem reads 1"),
        (0, SMALL[0].replace(b'"vms":2', b'"vms":2001'), "line 1: Expected `int` <= 2000"),
        (0, SMALL[0].replace(b'"vms":2', b'"vms":3'), "the file ends here"),
        (0, SMALL[0].replace(b'"vms":2', b'"vms":1'), "something behind the last row"),
        (0, SMALL[0].replace(b'"budget_bytes":', b'"budget_bytes":9999999999999999999999'), "line 1: "),
        (1, b"[" * LOAD_LINE_BYTES_MAX * 2 + b"\n", "line 2: it is too long"),
        (1, b"[" * (LOAD_LINE_BYTES_MAX - 1) + b"\n", "line 2: "),
        (1, SMALL[1].replace(b'"rows":', b'"rows":9'), "line "),
        (1, SMALL[1].replace(b'"number":1', b'"number":3'), "the numbers of the VMs do not rise"),
        (1, SMALL[1].replace(b'"normal"', b'"\\u001b[2J"'), "Invalid enum value"),
        (ROW, b"[0, 0, 1, 1, 1]\n", ">= 1"),
        (ROW, b"[0, 5, 1, 2, 3]\n", "the mean is not between"),
        (ROW, b"[0, 4000, 1, 1, 1]\n", "ends behind the trace"),
        (ROW + 1, b"[0, 1, 1, 1, 1]\n", "before the last one ended"),
        (ROW, b"[0, 1, 1, 1]\n", "Expected `array` of length 5"),
        (ROW, b"[NaN, 1, 1, 1, 1]\n", "line 3: "),
        (ROW, b"[1e99, 1, 1, 1, 1]\n", "line 3: "),
        (ROW, b"\xff\xfe\n", "line 3: "),
    ],
)
def test_what_is_wrong_with_a_trace_is_named_with_its_line(
    at: int, line: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "host.trace"
    path.write_bytes(b"".join([*SMALL[:at], line, *SMALL[at + 1 :]]))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: line ")
    assert said in str(error.value)


def test_whatever_is_in_a_file_it_is_a_load_or_a_named_error(tmp_path: Path) -> None:
    random, path, whole = Random(1), tmp_path / "host.trace", b"".join(SMALL)
    kept = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(data))
            data[at : at + random.randrange(3)] = random.randbytes(random.randrange(3))
        path.write_bytes(data)
        try:
            load = read(path)
        except ConfigError:
            continue
        kept += 1
        assert all(vm.ends_ds <= load.for_ds for vm in load.vms)
    assert kept < 400


def test_more_rows_than_fit_into_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.trace"
    write(alike(2, GIB, 3000, 1), path)
    monkeypatch.setattr("dynmem.simulation.trace_file.SIMULATED_ROWS_MAX", 1)
    with pytest.raises(ConfigError, match="more than 1 rows: export less time, or fewer VMs"):
        read(path)
    with pytest.raises(ConfigError, match="name a trace"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--guests", "3", "--trace", "x"), "--trace and --guests: choose one"),
        (("--guests", "0"), "0 guests: from 1 to 2000"),
        (("--guests", "2", "--maximum", "much"), "--maximum: 'much' is not a size"),
        (("--guests", "2", "--for", "0"), "--for: 0 is not above 0"),
        (("--guests", "2", "--for", "a while"), "--for: 'a while' is not a duration"),
        (("--guests", "2", "--rate", "0"), "--rate: 0 B is not from 4 KiB"),
        (("--guests", "2", "--seed", "-1"), "--seed: -1 is not from 0"),
        (("--guests", "2", "--jobs", "0"), "--jobs: 0 is below 1"),
        (("--guests", "2", "--budget", "1B"), "--budget: 1 B is not from"),
        (("--trace", "/nonexistent"), "name a trace (dynmem history --export)"),
        (("--load", "/nonexistent"), "name a file that describes a load"),
        (("--since", "1h", "--until", "2h"), "is not before"),
    ],
)
def test_what_cannot_be_simulated_is_named(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, "simulate", *options)
    assert (code, out) == (2, "")
    assert said in err


def test_the_table_says_that_it_is_simulated_and_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(
        capsys, "simulate", "--guests", "2", "--maximum", "256M", "--for", "60s", "--jobs", "1"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("budget 256 MiB, seed 1; simulated")
    assert [line.split()[0] for line in lines[3:9]] == ["dynmem", "proxmox", "mom", "static", "fpr", "none"]
    assert any("no swap" in line for line in lines[9:])
    assert any("begin again a minute later" in line for line in lines[9:])
