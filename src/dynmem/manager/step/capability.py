"""What a VM can do, and how that is known: one record, with evidence for each entry (see `evidence`)."""

import msgspec


class Known(msgspec.Struct, frozen=True):
    """What is known of one ability.

    Attributes:
        value: What it is, in a word.
        evidence: How that is known, as a sentence.

    """

    value: str
    evidence: str


class Capability(msgspec.Struct, frozen=True):
    """What a VM can do, and how that is known.

    Attributes:
        devices: The devices that move its memory; "none".
        driver: Its balloon's driver: "proven", "unknown", "absent", or "none" without a balloon.
        plugging: The driver of its virtio-mem: the same words.
        statistics: What its guest reports: "fresh", "stale", "absent", or "none" without a device for it.
        free_page_reporting: "on", "off", "unknown", or "none".
        deflate_on_oom: "on", "off", "unknown", or "none".
        guest_page_size: Its guest's page size; "unknown": no device reports it.
        movable: Whether the manager may change it: "yes", "grow only", "no".

    """

    devices: Known
    driver: Known
    plugging: Known
    statistics: Known
    free_page_reporting: Known
    deflate_on_oom: Known
    guest_page_size: Known
    movable: Known
