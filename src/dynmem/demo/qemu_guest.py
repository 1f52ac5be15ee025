"""A real Linux guest under QEMU as a VM of the demonstration; its load is a process inside it."""

import time
from pathlib import Path
from typing import Final

from dynmem.demo.guests import LoadReport
from dynmem.demo.scenario import Member
from dynmem.lab.qemu import Accelerator, QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import MIB

POLITE_RESERVE_BYTES: Final = 24 * MIB


class LinuxGuest:
    """Boots a stock cloud kernel; its load is sent its peak over the serial port.

    A `polite` load waits when its guest has little memory left, where another would be OOM-killed.
    """

    def __init__(self, member: Member, folder: Path, accel: Accelerator, *, polite: bool) -> None:
        self.member = member
        self._reserve_bytes = POLITE_RESERVE_BYTES if polite else 0
        self.backend = "Linux on KVM" if accel == "kvm" else "Linux, emulated"
        self._guest = QemuGuest(
            member.name,
            member.maximum_bytes,
            folder,
            load=self._load(member.load_low),
            accel=accel,
            deflate_on_oom=True,  # as README recommends: the guest's parachute
        )
        self.monitor: Path = self._guest.qmp_path
        self._high = False
        self._began = 0.0
        self._duration_s = 1.0

    def start(self, seconds_gone: float, duration_s: float) -> None:
        # QEMU ends with the thread that calls this.
        self._began = time.monotonic() - seconds_gone
        self._duration_s = duration_s
        self._guest.start()

    @property
    def pid(self) -> int:
        return self._guest.pid

    def report(self) -> LoadReport | None:
        # Also sends the load the beginning and end of its peak.
        self._guest.check()
        report = self._guest.read_serial()
        if report is None:
            return None
        self._keep_to_the_scenario()
        kills = max(report.oom_kills, report.oom_messages)
        return LoadReport(report.wanted_pages, report.held_pages, report.wrong_bytes, kills)

    def stop(self) -> None:
        self._guest.stop()

    def _keep_to_the_scenario(self) -> None:
        moment = (time.monotonic() - self._began) / self._duration_s
        high = self.member.peak_from <= moment < self.member.peak_to
        if high != self._high:
            self._guest.order(self._load(self.member.load_high if high else self.member.load_low))
            self._high = high

    def _load(self, share: float) -> Load:
        wanted = int(self.member.maximum_bytes * share)
        return Load(
            curve="steady",
            high_bytes=wanted,
            rate_bytes=self.member.rate_bytes,
            reserve_bytes=self._reserve_bytes,
        )
