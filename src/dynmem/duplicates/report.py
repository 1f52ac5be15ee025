"""What a scan found, as programs read it (`dynmem duplicates --json`)."""

from typing import Final

import msgspec

#: The version of the output; it rises when programs have to change.
SCHEMA_VERSION: Final = 1


class VmFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one VM. Sizes are bytes, whole pages but for the parts of what is shared.

    Attributes:
        name: What it is called.
        pid: Its process.
        account: Its account.
        ram_bytes: Its RAM files.
        read_bytes: What of them holds data, and was read.
        zero_bytes: Pages that hold only zeros.
        equal_bytes: Pages with data whose bytes another page of the account has, too.
        inside_bytes: What of them sharing inside this VM alone would save.
        across_bytes: What of them another VM of the account has, too.
        sharing_bytes: This VM's part of what page sharing would save, zero pages included.
        ksm_bytes: The same for KSM, which keeps a copy for each 256 equal pages.
        balloon_bytes: What a balloon would save at least: the zero pages, if the guest does not use them.
    """

    name: str
    pid: int
    account: str
    ram_bytes: int
    read_bytes: int
    zero_bytes: int
    equal_bytes: int
    inside_bytes: int
    across_bytes: int
    sharing_bytes: int
    ksm_bytes: int
    balloon_bytes: int


class AccountFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in the VMs of one account together.

    Attributes:
        name: The account.
        vms: Its VMs, by name.
        read_bytes: What holds data, and was read.
        zero_bytes: Pages that hold only zeros.
        equal_bytes: Pages with data whose bytes another page of the account has, too.
        contents: How many different pages those are.
        sharing_bytes: What page sharing would save, zero pages included.
        ksm_bytes: What KSM would save if this memory were private.
        balloon_bytes: What balloons would save at least.
        changed_bytes: Pages that were equal by their hash, but had changed or gone when they were compared.
        uncompared_bytes: Pages left out of the comparison, since thousands had their hash and other bytes.
    """

    name: str
    vms: tuple[str, ...]
    read_bytes: int
    zero_bytes: int
    equal_bytes: int
    contents: int
    sharing_bytes: int
    ksm_bytes: int
    balloon_bytes: int
    changed_bytes: int
    uncompared_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan found.

    Attributes:
        schema_version: The version of this output.
        rate_bytes_per_s: The limit of reading; null if there was none.
        seconds: How long it took.
        accounts: The accounts; nothing in one says anything about another.
        vms: The VMs.
        notes: What was left out of VMs that were read, and why.
        problems: Why VMs could not be read, a sentence each.
    """

    schema_version: int = SCHEMA_VERSION
    rate_bytes_per_s: int | None
    seconds: float
    accounts: tuple[AccountFigures, ...]
    vms: tuple[VmFigures, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
