"""VMBus control messages: vectors from a capture of stock Linux, sizes, padding, versions."""

import uuid

import pytest

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire import dm, vmbus
from dynmem.wire.layout import Layout
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_2,
    VERSION_5_3,
    VERSION_6_0,
    VERSION_WIN10,
    VERSION_WS2008,
    VERSIONS,
    format_version,
)

INSTANCE = uuid.UUID("1eccfd72-4b41-45ef-b73a-4a6e44c12924")
OFFER = vmbus.OfferChannel(
    interface=dm.BALLOON_DEVICE_TYPE,
    instance=INSTANCE,
    channel_flags=0,
    mmio_megabytes=0,
    user_defined=bytes(120),
    sub_channel_index=0,
    mmio_megabytes_optional=0,
    child_relid=1,
    monitor_id=0,
    monitor_allocated=False,
    is_dedicated_interrupt=True,
    connection_id=0x10001,
)
RING_PFNS = b"".join(pfn.to_bytes(8, "little") for pfn in range(0x53F0, 0x53FA))
CAPTURED = [
    (
        "0e000000000000000300050000000000020000000000000000a03305000000000090330500000000",
        vmbus.InitiateContact(VERSION_5_3, 0, 2, 0x533A000, 0x5339000),
    ),
    ("0f000000000000000100000004000000", vmbus.VersionResponse(True, 0, 4)),
    ("0300000000000000", vmbus.RequestOffers()),
    (
        "0100000000000000dc7450528589e2468057a307dc18a50272fdcc1e414bef45b73a4a6e44c12924"
        + "00" * 140
        + "0000000001000000000001000"
        + "1000100",
        OFFER,
    ),
    ("0400000000000000", vmbus.AllOffersDelivered()),
    (
        "080000000000000001000000101e0e005800010000a0000000000000" + RING_PFNS.hex(),
        vmbus.GpadlHeader(1, 0xE1E10, 88, 1, bytes.fromhex("00a0000000000000") + RING_PFNS),
    ),
    ("0a0000000000000001000000101e0e0000000000", vmbus.GpadlCreated(1, 0xE1E10, 0)),
    (
        "05000000000000000100000001000000101e0e000000000005000000" + "00" * 120,
        vmbus.OpenChannel(1, 1, 0xE1E10, 0, 5),
    ),
    ("0600000000000000010000000100000000000000", vmbus.OpenChannelResult(1, 1, 0)),
]
SIZES = {
    1: 196, 2: 12, 3: 8, 4: 8, 5: 148, 6: 20, 7: 12, 8: 20, 9: 16, 10: 20, 11: 16, 12: 12, 13: 12, 14: 40,
    15: 10, 16: 8, 17: 8, 18: 28, 19: 20, 20: 12, 21: 40, 22: 16, 23: 44, 24: 16, 25: 24, 26: 9, 27: 8,
    28: 8, 29: 8,
}  # fmt: skip


@pytest.mark.parametrize(("octets", "message"), CAPTURED, ids=lambda value: type(value).__name__)
def test_captured_bytes_and_messages_are_each_others_encoding(octets: str, message: vmbus.Message) -> None:
    assert vmbus.decode(bytes.fromhex(octets)) == message
    assert vmbus.encode(message).hex() == octets


def test_every_message_has_the_size_that_the_kernel_gives_it() -> None:
    assert {layout.number: layout.size for layout in vmbus.TABLE.layouts} == SIZES


@pytest.mark.parametrize("layout", vmbus.TABLE.layouts, ids=lambda layout: layout.name)
def test_a_message_cut_anywhere_in_its_fixed_part_is_refused(layout: Layout) -> None:
    whole = layout.number.to_bytes(8, "little") + bytes(layout.size - 8)
    vmbus.decode(whole)
    for length in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            vmbus.decode(whole[:length])


def test_a_contact_from_5_0_on_names_sint_trust_level_and_features() -> None:
    target = vmbus.contact_target(2, vtl=1, feature_flags=0x81)
    contact = vmbus.InitiateContact(VERSION_6_0, 0, target, 0, 0)
    assert (contact.message_sint, contact.message_vtl, contact.feature_flags) == (2, 1, 0x81)
    assert vmbus.encode(contact)[16:24].hex() == "0201000081000000"


def test_padding_is_not_taken_for_fields_of_a_later_version() -> None:
    posted = vmbus.encode(vmbus.OpenChannel(1, 2, 3, 4, 5)).ljust(240, b"\0")  # as UEFI posts
    plain = vmbus.decode(posted, VERSION_5_3)
    assert plain == vmbus.OpenChannel(1, 2, 3, 4, 5)
    later = vmbus.decode(posted, VERSION_6_0)
    assert later == vmbus.OpenChannel(1, 2, 3, 4, 5, bytes(120), 0, 0, 0)
    response = bytes.fromhex("0f000000000000000100000000000000")
    assert vmbus.decode(response + bytes(4), VERSION_5_3) == vmbus.VersionResponse(True, 0, 0)
    assert vmbus.decode(response[:12], VERSION_5_0) == vmbus.VersionResponse(True, 0)  # QEMU posts 12
    assert vmbus.decode(vmbus.encode(OFFER) + bytes(4)) == OFFER  # QEMU posts 200
    request = vmbus.TlConnectRequest(INSTANCE, dm.BALLOON_DEVICE_TYPE)
    padded = vmbus.encode(request).ljust(56, b"\0")
    assert vmbus.decode(padded, VERSION_4_1) == request
    assert vmbus.decode(padded, VERSION_5_2) != request


def test_padding_behind_a_gpadl_header_is_not_taken_for_pages() -> None:
    header = vmbus.GpadlHeader(1, 7, 16, 1, bytes(range(16)))
    assert vmbus.decode(vmbus.encode(header).ljust(240, b"\xee")) == header


def test_the_largest_version_response_has_forty_bytes() -> None:
    message = vmbus.VersionResponse(True, 0, 4, 0x41, 0x1000, 0x2000)
    octets = vmbus.encode(message)
    assert len(octets) == 40
    assert octets[16:24].hex() == "4100000000000000"
    assert vmbus.decode(octets) == message


def test_a_version_does_not_know_later_messages() -> None:
    modify = vmbus.encode(vmbus.ModifyChannel(1, 0))
    assert vmbus.decode(modify, VERSION_4_1) == vmbus.ModifyChannel(1, 0)
    with pytest.raises(RemoteProtocolError, match="unknown VMBus message 22"):
        vmbus.decode(modify, VERSION_WIN10)
    with pytest.raises(RemoteProtocolError, match="unknown"):
        vmbus.decode(vmbus.encode(vmbus.Pause()), VERSION_5_3)


@pytest.mark.parametrize("layout", vmbus.TABLE.layouts, ids=lambda layout: layout.name)
def test_no_message_is_encoded_for_a_version_that_does_not_know_it(layout: Layout) -> None:
    message = vmbus.decode(layout.number.to_bytes(8, "little") + bytes(layout.size - 8))
    assert vmbus.encode(message, layout.since) == vmbus.encode(message)
    for version in (0, *VERSIONS):
        if version < layout.since:
            with pytest.raises(LocalProtocolError, match=f"{layout.name} in this form needs"):
                vmbus.encode(message, version)


def test_fields_of_a_later_version_are_not_encoded_for_an_older_one() -> None:
    request = vmbus.OpenChannel(1, 2, 3, 4, 5, bytes(120), 6, 7, 8)
    assert len(vmbus.encode(request, VERSION_6_0)) == 156
    with pytest.raises(
        LocalProtocolError, match=r"OPENCHANNEL in this form needs 6\.0, the peer speaks 5\.3"
    ):
        vmbus.encode(request, VERSION_5_3)
    with pytest.raises(LocalProtocolError, match=r"needs 6\.0, no version is agreed on yet"):
        vmbus.encode(vmbus.VersionResponse(True, 0, 4, 0x41), 0)


def test_before_any_contact_only_contacts_are_known() -> None:
    known = {layout.number for layout in vmbus.TABLE.layouts if layout.since == 0}
    assert known == {14, 15, 19}
    assert {layout.since for layout in vmbus.TABLE.layouts} <= {0, *VERSIONS, VERSION_6_0}


def test_a_message_is_at_most_240_bytes_both_ways() -> None:
    pages = vmbus.GpadlBody(1, 7, bytes(8 * vmbus.GPADL_BODY_PFNS_MAX))
    assert len(vmbus.encode(pages)) == 240
    header = vmbus.GpadlHeader(1, 7, 0xFFFF, 1, bytes(8 + 8 * vmbus.GPADL_HEADER_PFNS_MAX))
    assert len(vmbus.encode(header)) == 236
    with pytest.raises(LocalProtocolError):
        vmbus.encode(vmbus.GpadlBody(1, 7, bytes(8 * 29)))
    with pytest.raises(RemoteProtocolError):
        vmbus.decode(vmbus.encode(pages) + b"\0")


@pytest.mark.parametrize(
    "message",
    [
        vmbus.OpenChannel(1, 2, 3, 4, 5, b"short"),
        vmbus.OpenChannel(1, 2, 3, 4, 5, bytes(120), 6),
        vmbus.VersionResponse(True, 0, None, 1),
        vmbus.VersionResponse(True, 256),
        vmbus.GpadlHeader(1, 2, 0x10000, 1, b""),
        vmbus.CloseChannel(-1),
        dm.UnballoonResponse(1),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_error(message: vmbus.Message) -> None:
    with pytest.raises(LocalProtocolError):
        vmbus.encode(message)


def test_versions_are_written_as_people_write_them() -> None:
    assert [format_version(version) for version in (VERSION_WS2008, VERSION_5_3)] == ["0.13", "5.3"]
