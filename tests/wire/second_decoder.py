"""A second decoder: the same messages as C structures, written by hand and read by dissect.cstruct.

Nothing here comes from the tables of ``dynmem.wire``: the structures follow the header files of QEMU and of
Linux and the VMBus crate of OpenVMM. Fields bear the names that our message classes give them, so that the
two can be laid side by side; words without a field (``n_...`` counts, ``r...`` reserved) do not count.
"""

import uuid
from typing import Any, Final

from dissect.cstruct import cstruct

DM = """
struct dm_header { uint16 type; uint16 size; uint32 trans_id; };

struct m0 { struct dm_header h; char data[EOF]; };
struct m1 { struct dm_header h; uint32 version; uint32 is_last_attempt:1; uint32 r0:31; };
struct m2 { struct dm_header h; uint64 is_accepted:1; uint64 r0:63; };
struct m3 { struct dm_header h; uint64 caps; uint64 min_page_cnt; uint64 max_page_number; };
struct m4 {
    struct dm_header h;
    uint64 is_accepted:1; uint64 hot_remove:1; uint64 suppress_pressure_reports:1; uint64 r0:61;
};
struct m5 {
    struct dm_header h;
    uint64 num_avail; uint64 num_committed; uint64 page_file_size; uint64 zero_free;
    uint32 page_file_writes; uint32 io_diff;
};
struct m6 { struct dm_header h; uint32 num_pages; uint32 r0; };
struct m7 {
    struct dm_header h;
    uint32 r0;
    uint32 more_pages:1; uint32 n_ranges:31;
    uint64 ranges[n_ranges];
};
struct m8 {
    struct dm_header h;
    uint32 more_pages:1; uint32 r0:31;
    uint32 n_ranges;
    uint64 ranges[n_ranges];
};
struct m9 { struct dm_header h; };
struct m10_short { struct dm_header h; uint64 range; };
struct m10_long { struct dm_header h; uint64 range; uint64 region; };
struct m11 { struct dm_header h; uint32 page_count; uint32 result; };
struct m12 {
    struct dm_header h;
    uint32 r0; uint32 n_info;
    uint32 info_type; uint32 n_data;
    char data[n_data];
};
struct m13 { struct dm_header h; uint32 virtual_node; uint32 page_count; uint32 qos_flags; uint32 r0; };
struct m14 {
    struct dm_header h;
    uint32 result; uint32 n_ranges;
    uint64 more_pages:1; uint64 r0:63;
    uint64 ranges[n_ranges];
};
"""

CHANNEL = """
struct head { uint32 type; uint32 r_padding; };

struct m1 {
    struct head h;
    char interface[16]; char instance[16];
    uint64 r0; uint64 r1;
    uint16 channel_flags; uint16 mmio_megabytes;
    char user_defined[120];
    uint16 sub_channel_index; uint16 mmio_megabytes_optional;
    uint32 child_relid;
    uint8 monitor_id;
    uint8 monitor_allocated:1; uint8 r2:7;
    uint16 is_dedicated_interrupt:1; uint16 r3:15;
    uint32 connection_id;
};
struct m2 { struct head h; uint32 child_relid; };
struct m3 { struct head h; };
struct m4 { struct head h; };
struct m5 {
    struct head h;
    uint32 child_relid; uint32 openid; uint32 ringbuffer_gpadl; uint32 target_vp;
    uint32 downstream_page_offset; char user_data[120];
};
struct m5_6_0 {
    struct head h;
    uint32 child_relid; uint32 openid; uint32 ringbuffer_gpadl; uint32 target_vp;
    uint32 downstream_page_offset; char user_data[120];
    uint32 connection_id; uint16 event_flag; uint16 flags;
};
struct m6 { struct head h; uint32 child_relid; uint32 openid; uint32 status; };
struct m7 { struct head h; uint32 child_relid; };
struct m8 {
    struct head h;
    uint32 child_relid; uint32 gpadl; uint16 range_buflen; uint16 range_count;
    char ranges[range_buflen];
};
struct m9 { struct head h; uint32 message_number; uint32 gpadl; char pfns[EOF]; };
struct m10 { struct head h; uint32 child_relid; uint32 gpadl; uint32 creation_status; };
struct m11 { struct head h; uint32 child_relid; uint32 gpadl; };
struct m12 { struct head h; uint32 gpadl; };
struct m13 { struct head h; uint32 child_relid; };
struct m14 {
    struct head h;
    uint32 version; uint32 target_vcpu; uint64 interrupt_page; uint64 monitor_page1; uint64 monitor_page2;
};
struct m14_6_0 {
    struct head h;
    uint32 version; uint32 target_vcpu; uint64 interrupt_page; uint64 monitor_page1; uint64 monitor_page2;
    char client_id[16];
};
struct m15 { struct head h; uint8 version_supported:1; uint8 r0:7; uint8 connection_state; };
struct m15_word {
    struct head h;
    uint8 version_supported:1; uint8 r0:7; uint8 connection_state; uint16 r1;
    uint32 version_or_connection_id;
};
struct m15_6_0 {
    struct head h;
    uint8 version_supported:1; uint8 r0:7; uint8 connection_state; uint16 r1;
    uint32 version_or_connection_id; uint32 supported_features;
};
struct m15_pages {
    struct head h;
    uint8 version_supported:1; uint8 r0:7; uint8 connection_state; uint16 r1;
    uint32 version_or_connection_id; uint32 supported_features; uint32 r2;
    uint64 parent_to_child_page; uint64 child_to_parent_page;
};
struct m16 { struct head h; };
struct m17 { struct head h; };
struct m18 {
    struct head h;
    uint32 channel; uint32 target_vp; uint32 target_sint; uint32 ringbuffer_gpadl;
    uint32 downstream_page_offset;
};
struct m19 { struct head h; uint32 channel; uint32 target_vp; uint32 target_sint; };
struct m20 { struct head h; uint32 channel; };
struct m21 { struct head h; char endpoint[16]; char service[16]; };
struct m21_5_2 { struct head h; char endpoint[16]; char service[16]; char silo[16]; };
struct m22 { struct head h; uint32 child_relid; uint32 target_vp; };
struct m23 { struct head h; char endpoint[16]; char service[16]; uint32 status; };
struct m24 { struct head h; uint32 child_relid; uint32 status; };
struct m25 { struct head h; uint64 parent_to_child_page; uint64 child_to_parent_page; };
struct m26 { struct head h; uint8 connection_state; };
struct m27 { struct head h; };
struct m28 { struct head h; };
struct m29 { struct head h; };
"""

PAGES = """
struct footer { uint32 r0; uint32 write_index; };
struct with_words {
    uint16 type; uint16 offset8; uint16 len8; uint16 flags; uint64 trans_id;
    char words[offset8 * 8 - 16];
    char data[(len8 - offset8) * 8];
    struct footer f;
};
struct gpa_range {
    uint32 byte_count; uint32 byte_offset;
    uint64 pfns[(byte_offset + byte_count + 4095) / 4096];
};
struct gpa_direct {
    uint16 type; uint16 offset8; uint16 len8; uint16 flags; uint64 trans_id;
    uint32 r0; uint32 n_ranges;
    struct gpa_range ranges[n_ranges];
    char data[(len8 - offset8) * 8];
    struct footer f;
};

struct post { uint32 connection_id; uint32 r0; uint32 message_type; uint32 n_payload; char payload[240]; };
struct signal { uint32 connection_id; uint16 flag; uint16 r0; };
struct slot {
    uint32 message_type; uint8 n_payload; uint8 pending:1; uint8 r0:7; uint16 r1; uint64 sender;
    char payload[240];
};
struct message_page { struct slot slots[16]; };
struct event_page { uint32 flags[16][64]; };

struct trigger_group { uint32 pending; uint32 armed; };
struct parameter { uint32 connection_id; uint16 flag_number; uint16 r0; };
struct monitor_page {
    uint32 trigger_state; uint32 r0;
    struct trigger_group groups[4];
    uint64 r1[3];
    int32 next_check_times[4][32];
    uint16 latencies[4][32];
    uint64 r2[32];
    struct parameter parameters[4][32];
    uint8 r3[1984];
};
"""


def _load(definition: str) -> Any:
    parser = cstruct(endian="<")
    parser.load(definition)
    return parser


dm: Final = _load(DM)
channel: Final = _load(CHANNEL)
pages: Final = _load(PAGES)

GUIDS: Final = {"interface", "instance", "client_id", "endpoint", "service", "silo"}
FLAGS: Final = {
    "is_last_attempt",
    "is_accepted",
    "hot_remove",
    "suppress_pressure_reports",
    "more_pages",
    "monitor_allocated",
    "is_dedicated_interrupt",
    "version_supported",
}
LONGER: Final = {  # number and bytes behind the shortest form -> structure, where there are several
    5: {148: "m5", 156: "m5_6_0"},
    14: {40: "m14", 56: "m14_6_0"},
    15: {10: "m15", 16: "m15_word", 20: "m15_6_0", 40: "m15_pages"},
    21: {40: "m21", 56: "m21_5_2"},
}


def plain(name: str, value: Any) -> Any:
    """A field's value as our classes hold it."""
    if name in GUIDS:
        return uuid.UUID(bytes_le=bytes(value))
    if name in FLAGS:
        return bool(value)
    if isinstance(value, list):  # packed words
        return b"".join(int(word).to_bytes(8, "little") for word in value)
    return bytes(value) if isinstance(value, bytes) else int(value)


def fields(parsed: Any) -> dict[str, Any]:
    """The fields of a parsed message that have names, by name."""
    found: dict[str, Any] = {}
    for name in type(parsed).fields:
        if name == "h":
            if hasattr(parsed.h, "trans_id"):
                found["trans_id"] = int(parsed.h.trans_id)
        elif not name.startswith(("n_", "r0", "r1", "r2", "r3", "r_")):
            found[name] = plain(name, getattr(parsed, name))
    return found


def read_dm(octets: bytes) -> tuple[int, int, dict[str, Any]]:
    """Number, size in the header and fields of a dynamic memory message."""
    head = dm.dm_header(octets)
    name = f"m{head.type}"
    if head.type == 10:
        name = "m10_short" if head.size == 16 else "m10_long"
    parsed = getattr(dm, name)(octets)
    if head.type == 12 and parsed.n_info != parsed.n_data + 8:  # it counts the two words before the data
        raise ValueError(f"an information message of {parsed.n_info} bytes with {parsed.n_data} of data")
    return int(head.type), int(head.size), fields(parsed)


def read_channel(octets: bytes) -> tuple[int, dict[str, Any]]:
    """Number and fields of an unpadded control message."""
    number = int(channel.head(octets).type)
    name = LONGER[number][len(octets)] if number in LONGER else f"m{number}"
    return number, fields(getattr(channel, name)(octets))
