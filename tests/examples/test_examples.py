"""The programs of examples/, each run as its reader would run it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one program in the checkout and return how it ended."""
    command = [sys.executable, f"examples/{program}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def said(program: str, *arguments: str) -> list[str]:
    """Return the lines that a program printed; it must end well."""
    done = run(program, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_example_is_run_here() -> None:
    programs = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert programs == {"decode_a_capture", "guest_driver", "host_over_a_socketpair", "my_host_under_test"}


def test_a_host_over_a_socket_pair_shrinks_a_guest_and_grows_it_again() -> None:
    lines = said("host_over_a_socketpair")
    assert "DynamicMemoryHost: BalloonFinished(asked=131072, got=131072)" in lines
    assert "DynamicMemoryGuest: BalloonedUp(asked=131072, given=131072)" in lines
    assert "DynamicMemoryGuest: BalloonedDown(pages=131072)" in lines
    sizes = [line for line in lines if line.startswith("the guest has")]
    assert sizes == ["the guest has 131072 pages", "the guest has 262144 pages"]


def test_a_guest_driver_opens_the_balloon_and_gives_what_is_requested() -> None:
    lines = said("guest_driver")
    received = [line for line in lines if line.startswith("host: received")]
    assert received == [
        f"host: received {name}" for name in ("VersionRequest", "CapabilitiesReport", "BalloonResponse")
    ]
    assert "guest: Opened(channel=<GuestChannel 1 open>)" in lines
    assert lines[-1] == "the host was given 16384 pages; the driver says 16384"


def test_a_capture_is_decoded_and_summed_up() -> None:
    lines = said("decode_a_capture", "tests/captures/wire.log")
    assert any("H>G dm    DM_BALLOON_REQUEST trans_id=1 num_pages=16384" in line for line in lines)
    assert "22 messages and events" in lines
    assert "     1 DM_BALLOON_RESPONSE, 16384 pages" in lines


def test_a_trace_log_of_qemu_is_decoded_too() -> None:
    lines = said("decode_a_capture", "tests/captures/trace.log")
    assert any("hv_balloon_state_change" in line for line in lines)


def test_a_file_without_messages_is_an_error_and_each_line_is_reported(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("not a capture\n")
    done = run("decode_a_capture", str(tmp_path / "noise"))
    assert done.returncode == 1
    assert f"{tmp_path}/noise:1: " in done.stderr


def test_my_host_passes_the_session_cases() -> None:
    lines = said("my_host_under_test")
    verdicts = {line.split()[1]: line.split()[0] for line in lines if "session-" in line}
    assert verdicts.pop("session-hot-add") == "skipped"
    assert len(verdicts) == 7
    assert set(verdicts.values()) == {"passed"}


def test_my_host_can_be_named_to_the_command() -> None:
    command = [sys.executable, "-m", "dynmem.conformance", "--host", "my_host_under_test:MyHost"]
    done = subprocess.run(
        [*command, "--only", "session-balloon"],
        cwd=ROOT / "examples",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout
