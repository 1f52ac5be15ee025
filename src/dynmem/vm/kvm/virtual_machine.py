"""One virtual machine of KVM: its memory slots, interrupt controllers, interrupts and doorbells.

It lives as long as one guest: KVM resets nothing, so each power cycle makes another.

None of KVM's own Hyper-V code is used, so a kernel without it serves as well: Hyper-V's MSRs are filtered out
and become exits (`exits`), and the hypercall page is ours (`hyperv.page`). The filter is needed on a kernel
that has that code, which would answer them itself.

Source: Linux Documentation/virt/kvm/api.rst.
"""

import ctypes
import os
import threading
from collections.abc import Iterable
from typing import Final

from dynmem.vm.hyperv.page import SIGNAL_PORT
from dynmem.vm.kvm import api

# Three pages for a processor in real mode, and its page table, out of the way: where QEMU has them.
_IDENTITY_MAP: Final = 0xFFFB_C000
_TSS: Final = 0xFFFB_D000
_HYPERV_MSRS: Final = (0x4000_0000, 512)  # the first, and how many
_SIGNAL_BYTES: Final = 4  # of the doorbell's port: a connection id
_PIC_PINS: Final = 8
_IOAPIC_PINS: Final = 24
_FIRST_MESSAGE_GSI: Final = _IOAPIC_PINS  # those below are the pins of the I/O APIC
_LOCAL_APICS: Final = 0xFEE0_0000
_APIC_ID_SHIFT: Final = 12


class VirtualMachine:
    """KVM's part of one guest's life. For one thread, but for `set_line` and `route`."""

    def __init__(self, kvm: int) -> None:
        """Make it, with interrupt controllers and timer; OSError. `kvm`, /dev/kvm, stays the caller's."""
        self.kvm: Final = kvm
        self.fd: Final = api.call(kvm, api.CREATE_VM)
        self._messages: dict[tuple[int, int], tuple[int, int]] = {}  # (apic id, vector) by (vp, sint)
        self._irqfds: dict[tuple[int, int], int] = {}
        self._routing: Final = threading.Lock()
        try:
            api.call(self.fd, api.SET_TSS_ADDR, _TSS)
            api.call(self.fd, api.SET_IDENTITY_MAP_ADDR, _buffer(_IDENTITY_MAP.to_bytes(8, "little")))
            api.call(self.fd, api.CREATE_IRQCHIP)
            api.call(self.fd, api.CREATE_PIT2, api.PitConfig(flags=1))  # with the speaker's port
            self._take_over_hyperv()
        except OSError:
            os.close(self.fd)
            raise

    def _take_over_hyperv(self) -> None:
        """Have every access to an MSR of Hyper-V leave the guest."""
        cap = api.EnableCap(cap=api.CAP_X86_USER_SPACE_MSR)
        cap.args[0] = api.MSR_EXIT_REASON_FILTER
        api.call(self.fd, api.ENABLE_CAP, cap)
        base, count = _HYPERV_MSRS
        denied = ctypes.create_string_buffer(count // 8)  # all bits 0; the kernel copies it
        msrs = api.MsrFilter()
        msrs.ranges[0] = api.MsrFilterRange(
            flags=api.MSR_FILTER_READ_AND_WRITE, nmsrs=count, base=base, bitmap=ctypes.addressof(denied)
        )
        api.call(self.fd, api.X86_SET_MSR_FILTER, msrs)

    def set_slot(self, number: int, address: int, size: int, host_address: int, *, is_readonly: bool) -> None:
        """Map memory of this process into the guest, or unmap a slot (size 0); OSError."""
        api.call(
            self.fd,
            api.SET_USER_MEMORY_REGION,
            api.MemoryRegion(
                slot=number,
                flags=api.MEM_READONLY if is_readonly else 0,
                guest_phys_addr=address,
                memory_size=size,
                userspace_addr=host_address,
            ),
        )

    def add_doorbell(self, connection_id: int, eventfd: int) -> None:
        """Have a signal to this connection add 1 to `eventfd`, without an exit; OSError."""
        api.call(
            self.fd,
            api.IOEVENTFD,
            api.Ioeventfd(
                datamatch=connection_id,
                addr=SIGNAL_PORT,
                len=_SIGNAL_BYTES,
                fd=eventfd,
                flags=api.IOEVENTFD_DATAMATCH_PIO,
            ),
        )

    def set_line(self, gsi: int, *, level: bool) -> None:
        """Set an interrupt line of the machine. Any thread may call it."""
        api.call(self.fd, api.IRQ_LINE, api.IrqLevel(irq=gsi, level=level))

    def route(self, vp: int, sint: int, vector: int) -> int:
        """Let a SINT of a processor interrupt it with `vector`; return the descriptor that raises it.

        Called again it changes the vector, and the descriptor stays. Any thread may call it, and it takes
        milliseconds. OSError.
        """
        key = vp, sint
        with self._routing:
            if self._messages.get(key) != (vp, vector):
                messages = self._messages | {key: (vp, vector)}
                self._write_routes(messages.values())
                self._messages = messages
            if key not in self._irqfds:
                self._irqfds[key] = self._irqfd(_FIRST_MESSAGE_GSI + list(self._messages).index(key))
            return self._irqfds[key]

    def _irqfd(self, gsi: int) -> int:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            api.call(self.fd, api.IRQFD, api.Irqfd(fd=fd, gsi=gsi))
        except OSError:
            os.close(fd)
            raise
        return fd

    def _write_routes(self, messages: Iterable[tuple[int, int]]) -> None:
        """Give KVM the whole table, as it wants it: the pins of the controllers, then the messages."""
        pins = [(pin + _PIC_PINS * chip, chip, pin) for chip in range(2) for pin in range(_PIC_PINS)]
        # the timer's line is pin 2 of the I/O APIC, and its pin 0 is wired to the PIC
        pins += [(pin if pin != 2 else 0, 2, pin) for pin in range(1, _IOAPIC_PINS)]
        table = [_pin(*each) for each in pins]
        for number, (apic_id, vector) in enumerate(messages):
            entry = api.RoutingEntry(gsi=_FIRST_MESSAGE_GSI + number, type=api.IRQ_ROUTING_MSI)
            entry.u.msi = api.Msi(address_lo=_LOCAL_APICS | apic_id << _APIC_ID_SHIFT, data=vector)
            table.append(entry)
        head = len(table).to_bytes(8, "little")
        api.call(self.fd, api.SET_GSI_ROUTING, _buffer(head + b"".join(bytes(entry) for entry in table)))

    def close(self) -> None:
        """Release it. Its processors must be closed: the kernel ends it with its last descriptor."""
        for fd in self._irqfds.values():
            os.close(fd)
        os.close(self.fd)


def _pin(gsi: int, chip: int, pin: int) -> api.RoutingEntry:
    entry = api.RoutingEntry(gsi=gsi, type=api.IRQ_ROUTING_IRQCHIP)
    entry.u.irqchip = api.Irqchip(irqchip=chip, pin=pin)
    return entry


def _buffer(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(data, len(data))
