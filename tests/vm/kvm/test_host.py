"""What is said of a host's KVM, with a double of the calls that it answers."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dynmem.errors import ConfigError
from dynmem.findings import Finding, Verdict
from dynmem.vm.kvm import api, host

ALL = {each.number: 1 for each in host.CAPABILITIES}


class Kvm:
    """Answers like a KVM with these capabilities; an answer that is an errno is raised."""

    def __init__(
        self, capabilities: dict[int, int] = ALL, version: int = api.API_VERSION, machine: int = 0
    ) -> None:
        self.capabilities = capabilities
        self.version = version
        self.machine = machine  # the errno of KVM_CREATE_VM
        self.opened: list[int] = []

    def open(self, _: Path) -> int:
        self.opened.append(os.open(os.devnull, os.O_RDONLY))
        return self.opened[-1]

    def ioctl(self, fd: int, request: int, argument: int = 0) -> int:
        assert fd == self.opened[0]
        if request == api.GET_API_VERSION:
            return self.version if self.version >= 0 else self.fail(-self.version)
        if request == api.CHECK_EXTENSION:
            return 288 if argument == api.CAP_MAX_VCPUS else self.capabilities.get(argument, 0)
        assert request == api.CREATE_VM
        return self.fail(self.machine) if self.machine else self.open(host.DEVICE)

    @staticmethod
    def fail(number: int) -> int:
        raise OSError(number, os.strerror(number))

    def assert_closed(self) -> None:
        for fd in self.opened:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    def examined(self, cpuinfo: Path = Path(os.devnull)) -> list[Finding]:
        """What is found; every descriptor is closed again."""
        found = host.examine(open_device=self.open, ioctl=self.ioctl, cpuinfo=cpuinfo)
        self.assert_closed()
        return found

    def refusal(self, vp_count: int = 1) -> str:
        """Why no machine can be made on it; every descriptor is closed again."""
        with pytest.raises(ConfigError) as refused:
            host.open_kvm(vp_count, open_device=self.open, ioctl=self.ioctl)
        self.assert_closed()
        return str(refused.value)


def missing(found: list[Finding]) -> list[Finding]:
    assert all(finding.step for finding in found if finding.verdict is Verdict.MISSING)
    return [finding for finding in found if finding.verdict is not Verdict.OK]


def test_a_kvm_that_has_everything_is_fine() -> None:
    found = Kvm().examined()
    assert missing(found) == []
    assert [finding.subject for finding in found] == [
        "/dev/kvm",
        "KVM API",
        "KVM capabilities",
        "KVM machine",
    ]
    assert "at most 288 virtual processors" in found[2].detail


def test_each_capability_that_an_old_kvm_lacks_is_named() -> None:
    old = {number: value for number, value in ALL.items() if number not in (136, 188, 189)}
    found = missing(Kvm(old).examined())
    step = "use a host kernel of Linux 5.10 or later"
    assert [(finding.subject, finding.step) for finding in found] == [
        ("KVM_CAP_IMMEDIATE_EXIT", step),
        ("KVM_CAP_X86_USER_SPACE_MSR", step),
        ("KVM_CAP_X86_MSR_FILTER", step),
    ]
    for number in ALL:  # whichever it is
        (alone,) = missing(Kvm({**ALL, number: 0}).examined())
        assert alone.subject.startswith("KVM_CAP_")


def test_a_machine_is_not_made_on_a_kvm_that_lacks_something() -> None:
    fine = Kvm()
    os.close(host.open_kvm(288, open_device=fine.open, ioctl=fine.ioctl))
    lacking = Kvm({**ALL, 188: 0, 189: 0}).refusal()
    assert lacking == (
        "--kernel needs KVM, and this one lacks KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_X86_MSR_FILTER;"
        " dynmem doctor says what to do"
    )
    assert "its version is 11 instead of 12" in Kvm(version=11).refusal()
    assert "/dev/kvm does not answer: Inappropriate ioctl" in Kvm(version=-errno.ENOTTY).refusal()
    assert Kvm().refusal(289) == "--smp 289: this KVM has at most 288 virtual processors: take fewer"
    with pytest.raises(ConfigError, match="/dev/kvm cannot be opened: Permission denied; dynmem doctor says"):
        host.open_kvm(1, open_device=refusing(errno.EACCES))


def test_a_kvm_in_a_virtual_machine_is_a_limit(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\n")
    (only,) = missing(Kvm().examined(cpuinfo))
    assert (only.subject, only.verdict) == ("nested KVM", Verdict.LIMITED)
    cpuinfo.write_text("flags\t\t: fpu svm\nmodel name\t: hypervisor\n")
    assert missing(Kvm().examined(cpuinfo)) == []


def test_registers_that_a_kvm_does_not_share_are_missing_though_it_shares_others() -> None:
    (alone,) = missing(Kvm({**ALL, 74: 2}).examined())
    assert alone.subject == "KVM_CAP_SYNC_REGS"


@pytest.mark.parametrize(
    ("kvm", "subject", "said"),
    [
        (Kvm(version=11), "KVM API", "its version is 11, and only 12 is known"),
        (Kvm(version=-errno.ENOTTY), "KVM API", "it does not answer as KVM: Inappropriate ioctl"),
        (Kvm(machine=errno.EBUSY), "KVM machine", "none can be made: Device or resource busy"),
        (Kvm(machine=errno.ENOMEM), "KVM machine", "none can be made: Cannot allocate memory"),
    ],
)
def test_a_kvm_that_does_not_work_says_where_it_ends(kvm: Kvm, subject: str, said: str) -> None:
    (only,) = missing(kvm.examined())
    assert only.subject == subject
    assert said in only.detail
    assert ("another hypervisor" in only.step) == (kvm.machine == errno.EBUSY)


def refusing(number: int) -> Callable[[Path], int]:
    def open_device(device: Path) -> int:
        raise OSError(number, os.strerror(number), str(device))

    return open_device


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        ("fpu vmx sse", "modprobe kvm_intel"),
        ("fpu svm sse", "modprobe kvm_amd"),
        ("fpu sse", "switch it on in the firmware"),
    ],
)
def test_a_host_without_kvm_is_told_how_to_get_it(flags: str, step: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    (only,) = host.examine(open_device=refusing(errno.ENOENT), cpuinfo=cpuinfo)
    assert (only.subject, only.verdict) == ("/dev/kvm", Verdict.MISSING)
    assert "it is not there: dynmem vm --kernel needs it" in only.detail
    assert step in only.step
    (unknown,) = host.examine(open_device=refusing(errno.ENODEV), cpuinfo=tmp_path / "none")
    assert "switch it on" in unknown.step


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(("mode", "group", "step"), [(0o660, 5, "usermod -aG"), (0o600, 5, "setfacl -m u:")])
def test_a_user_without_permission_is_told_how_to_get_it(
    number: int, mode: int, group: int, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    status = os.stat_result((0o20000 | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda _: status)
    (only,) = host.examine(device, open_device=refusing(number))
    assert "this user may not open it" in only.detail
    assert step in only.step


def test_a_device_that_cannot_be_opened_for_another_reason_says_which() -> None:
    (only,) = host.examine(open_device=refusing(errno.EIO))
    assert "it cannot be opened: Input/output error" in only.detail


def test_every_host_gets_an_answer() -> None:
    found = host.examine()
    assert found[0].subject == "/dev/kvm"
    assert all(finding.step for finding in missing(found))
