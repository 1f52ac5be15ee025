"""The stage: a machine with a hostile guest, an honest machine and a manager, and what must hold of them.

Times are compared with those of a process that does nothing but answer, asked in turn with the machines: what
a busy computer does to it, it does to them.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.rigs.processes import descendants, is_there, memory_files
from tests.rigs.scenes import PATIENCE_S

#: The name of the hostile machine.
TAG: Final = f"hostile-{os.getpid()}"
ANSWER_S: Final = 0.050  # of 99 answers in 100
ANSWER_S_MAX: Final = 0.250
END_S: Final = 2.0
GROWTH_BYTES_MAX: Final = 16 << 20
DISK_BYTES_MAX: Final = 40 << 20  # a console's two files, and a log
LEFT_S: Final = 1.0
MIB: Final = 1 << 20
SIZES: Final = (32 * MIB, 64 * MIB, 192 * MIB, 48 * MIB)
_ECHO: Final = """
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(1)
asking, _ = listening.accept()
while data := asking.recv(100):
    asking.sendall(data)
"""


class Answers:
    """How long answers took."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __len__(self) -> int:
        return len(self.times)

    @property
    def most(self) -> float:
        return max(self.times, default=0.0)

    @property
    def nearly_all(self) -> float:
        """What 99 in 100 were below."""
        return sorted(self.times)[len(self.times) * 99 // 100] if self.times else 0.0


class Line:
    """A connection that is asked one thing after another, and how long the answers took."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._answers = answers
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._data = b""

    def read_line(self) -> bytes:
        while b"\n" not in self._data:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return line

    def ask(self, text: bytes) -> bytes:
        begin = time.perf_counter()
        self._socket.sendall(text)
        line = self.read_line()
        self._answers.times.append(time.perf_counter() - begin)
        return line

    def close(self) -> None:
        self._socket.close()


class Monitor(Line):
    """A machine's monitor."""

    def __init__(self, path: Path, answers: Answers) -> None:
        super().__init__(path, answers)
        self.read_line()
        self.command("qmp_capabilities")
        answers.times.clear()

    def command(self, name: str, **arguments: object) -> Any:
        line = self.ask(json.dumps({"execute": name, "arguments": arguments}).encode())
        while b'"event"' in line:
            line = self.read_line()
        return json.loads(line)


class Machine:
    """A ``dynmem vm``."""

    def __init__(self, folder: Path, name: str, options: Sequence[str], *, memory: str) -> None:
        folder.mkdir()
        self.folder, self.name = folder, name
        self.qmp, self.serial, self.log = folder / "qmp", folder / "serial", folder / "log"
        command = [sys.executable, "-m", "dynmem", "vm", f"--name={name}", f"--memory={memory}"]
        command += [f"--serial=file:{self.serial}", *options]
        command += [
            f"--qmp=unix:{self.qmp},server=on,wait=off",
            "--device=hv-balloon,id=hvb,status-report=on",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.answers = Answers()
        try:
            self.monitor = Monitor(self.qmp, self.answers)
        except OSError:
            self.process.kill()
            raise AssertionError(self.log.read_text()) from None
        self.first_bytes = self.most_bytes = private_bytes(self.process.pid)
        self.faults = 0  # of its guest, as it counted them
        self.cpu_s = 0.0

    def look(self) -> None:
        """Ask, and see how much it has of its own."""
        self.monitor.command("query-status")
        self.most_bytes = max(self.most_bytes, private_bytes(self.process.pid))

    def end(self) -> float:
        """End it by SIGTERM; return how long that took."""
        begin = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.monitor.close()
        return time.perf_counter() - begin


class Life(NamedTuple):
    """A process; its number may be another one's later."""

    pid: int
    begun: int


def life(pid: int) -> Life:
    with contextlib.suppress(OSError):
        return Life(pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))
    return Life(pid, 0)


class Verdict(NamedTuple):
    """What did not hold, which times were too long, and some figures."""

    faults: list[str]
    late: list[str]
    figures: str


class Stage:
    """An honest machine and a manager, before whom one hostile guest after another appears."""

    def __init__(self, folder: Path, options_of: Callable[[str], Sequence[str]]) -> None:
        """Set it up; `options_of` returns the options of a machine with a member of the cast."""
        self._folder = folder
        self._options_of = options_of
        self._acts = 0
        self._control = Answers()
        self._ending = contextlib.ExitStack()
        try:
            self._echo = subprocess.Popen([sys.executable, "-c", _ECHO, str(folder / "echo")])
            self._ending.callback(self._echo.wait)
            self._ending.callback(self._echo.terminate)
            self._control_line = Line(folder / "echo", self._control)
            self._ending.callback(self._control_line.close)
            honest = "--guest=embedded,workload=sine,period=5s"
            self.neighbour = Machine(folder / "honest", "honest", (honest,), memory="128M")
            self._ending.callback(self.neighbour.end)
            self._start_manager()
        except BaseException:
            self.close()
            raise

    def _start_manager(self) -> None:
        """Watch both machines; the hostile one is found at a path that each of them has for its life."""
        text = f"""
            [host]
            budget = "2GiB"
            slush = "16MiB"
            [manager]
            mode = "observe"
            period = "1s"
            socket = "{self._folder}/api/sock"
            state = "{self._folder}/state"
            [[vm]]
            name = "honest"
            qmp = "{self.neighbour.qmp}"
            minimum = "64MiB"
            maximum = "128MiB"
            [[vm]]
            name = "hostile"
            qmp = "{self._folder}/hostile/qmp"
            minimum = "32MiB"
            maximum = "512MiB"
        """
        config = self._folder / "hosts.toml"
        config.write_text(text)
        self.manager_log = self._folder / "manager.log"
        with self.manager_log.open("wb") as log:
            self.manager = subprocess.Popen(
                [sys.executable, "-m", "dynmem", "run", "--config", str(config)], stdout=log, stderr=log
            )
        self._ending.callback(self.manager.wait)
        self._ending.callback(self.manager.terminate)
        self._until_watched()
        self._manager_bytes = private_bytes(self.manager.pid)

    def _status(self) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "dynmem", "status", "--json", "--socket", f"{self._folder}/api/sock"],
            capture_output=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def _honest(self) -> Any:
        status = self._status()
        return status and next(vm for vm in status["vms"] if vm["name"] == "honest")

    def _until_watched(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_served(honest := self._honest()):
            assert time.monotonic() < deadline, (honest, self.manager_log.read_text())
            time.sleep(0.1)

    def close(self) -> None:
        """End everything."""
        self._ending.close()

    # one act

    def hold(self, sentence: str, *, seconds: float) -> Verdict:
        """Let a member play, and once more if only times did not hold: once may be the computer's doing."""
        verdict = self.play(sentence, seconds=seconds)
        return self.play(sentence, seconds=seconds) if verdict.late and not verdict.faults else verdict

    def play(self, sentence: str, *, seconds: float, measured: bool = True) -> Verdict:
        """Let a member do what it does for this long, and say what did not hold; of times if `measured`."""
        self._control.times.clear()
        self.neighbour.answers.times.clear()
        self.neighbour.first_bytes = self.neighbour.most_bytes = private_bytes(self.neighbour.process.pid)
        folder = self._folder / "hostile"
        machine = Machine(folder, TAG, self._options_of(sentence), memory="64M,maxmem=512M")
        faults: list[str] = []
        below: set[Life] = set()
        files: set[int] = set()
        try:
            self._watch(machine, seconds, below, files)
        except ConnectionError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.process.wait(PATIENCE_S)
            if machine.process.returncode not in (0, 1) or "is gone" not in machine.log.read_text():
                faults.append(f"it has ended with {machine.process.returncode}")
        except TimeoutError:
            faults.append(f"no answer for {PATIENCE_S:g} s")
        except BaseException:  # somebody ends the play
            machine.end()
            raise
        if not measured:  # a busy manager may be late, too
            self._until_watched()
        honest = self._honest()
        ended_s = machine.end()
        faults += self._judged(machine, honest)
        late = list(self._late(machine, ended_s)) if measured else []
        faults += left(below, files, within_s=LEFT_S if measured else PATIENCE_S)
        disk = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
        if disk > DISK_BYTES_MAX:
            faults.append(f"{disk >> 20} MiB of the disk are used")
        answers, control = machine.answers, self._control
        grown = machine.most_bytes - machine.first_bytes
        figures = (
            f"{len(answers)} answers, {answers.nearly_all * 1e3:.0f}/{answers.most * 1e3:.0f} ms (control"
            f" {control.nearly_all * 1e3:.0f}/{control.most * 1e3:.0f}), end {ended_s:.1f} s,"
            f" +{grown >> 20} MiB, disk {disk >> 20} MiB, {machine.faults} faults, CPU {machine.cpu_s:.1f} s"
        )
        self._acts += 1
        folder.rename(self._folder / f"act{self._acts}")
        return Verdict(faults, late, figures)

    def _watch(self, machine: Machine, seconds: float, below: set[Life], files: set[int]) -> None:
        begin = time.monotonic()
        asked, was_stopped, was_reset = 0, False, False
        while (now := time.monotonic() - begin) < seconds:
            for _ in range(4):
                machine.look()
                self.neighbour.look()
                self._control_line.ask(b"x\n")
            if now > asked * 0.25:
                machine.monitor.command("balloon", value=SIZES[asked % len(SIZES)])
                asked += 1
                below.update(map(life, descendants(machine.process.pid)))
                files.update(memory_files(machine.process.pid))
            if now > seconds * 0.4 and not was_stopped:
                machine.monitor.command("stop")
                machine.monitor.command("cont")
                was_stopped = True
            if now > seconds * 0.7 and not was_reset:
                machine.monitor.command("system_reset")
                was_reset = True
            time.sleep(0.005)
        found = machine.monitor.command("x-query-faults")["return"]
        machine.faults = sum(fault["count"] for fault in found)
        machine.cpu_s = processor_seconds(machine.process.pid)

    def _late(self, machine: Machine, ended_s: float) -> Iterator[str]:
        late, latest = self._control.nearly_all, self._control.most
        for each in (machine, self.neighbour):
            if each.answers.nearly_all > ANSWER_S + late:
                yield f"99 of 100 answers of {each.name} within {each.answers.nearly_all * 1e3:.0f} ms"
            if each.answers.most > ANSWER_S_MAX + latest:
                yield f"an answer of {each.name} took {each.answers.most * 1e3:.0f} ms"
        if ended_s > END_S + latest:
            yield f"it ended {ended_s:.1f} s after SIGTERM"

    def _judged(self, machine: Machine, honest: Any) -> Iterator[str]:
        for each in (machine, self.neighbour):
            if each.most_bytes - each.first_bytes > GROWTH_BYTES_MAX:
                yield f"{each.name} grew by {each.most_bytes - each.first_bytes >> 20} MiB"
            log = each.log.read_text(errors="replace")
            if "Traceback" in log or "internal error" in log:
                yield f"the log of {each.name}: {log[-2000:]}"
        if not is_served(honest):
            yield f"the manager says of the neighbour: {honest}"
        if self.neighbour.process.poll() is not None or self.manager.poll() is not None:
            yield "the neighbour or the manager has ended"
        if private_bytes(self.manager.pid) - self._manager_bytes > GROWTH_BYTES_MAX:
            yield "the manager grew"
        reports = self.neighbour.serial.read_text().splitlines()[-3:-1]
        if not reports or any(json.loads(report)["wrong_bytes"] for report in reports):
            yield f"the neighbour's guest says {reports}"


def private_bytes(pid: int) -> int:
    """What a process has of its own, without files and guest memory."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def processor_seconds(pid: int) -> float:
    """How long a process has computed."""
    figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(figures[11]) + int(figures[12])) / os.sysconf("SC_CLK_TCK")


def is_served(vm: Any) -> bool:
    """Whether the manager sees nothing wrong with a VM."""
    return bool(vm) and vm["standing"] == "movable"


def left(below: set[Life], files: set[int], *, within_s: float) -> Iterator[str]:
    """Say what there still is of a machine that has ended: its processes, and who has its memory."""
    deadline = time.monotonic() + within_s
    while (still := {each for each in below if is_there(each.pid) and life(each.pid) == each}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    for each in still:
        yield f"process {each.pid} is left"
        with contextlib.suppress(OSError):
            os.kill(each.pid, signal.SIGKILL)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if files & memory_files(int(entry.name)).keys():
                    yield f"process {entry.name} has its memory"
