"""The numbers of the Global Memory Manager are those of its header."""

from dynmem.gmm import Account, BalloonAction, OcPolicy, Priority


def test_invalid_is_0_in_every_enumeration_and_the_others_follow_in_the_headers_order() -> None:
    for enumeration, names in (
        (OcPolicy, "INVALID NO_OC TBD"),
        (Priority, "INVALID HIGH NORMAL LOW"),
        (Account, "INVALID BASE SHADOW FIXED"),
        (BalloonAction, "INVALID INFLATE DEFLATE RESET"),
    ):
        assert [(member.name, member.value) for member in enumeration] == [
            (name, number) for number, name in enumerate(names.split())
        ]
