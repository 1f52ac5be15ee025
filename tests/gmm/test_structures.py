"""The structures of the Global Memory Manager lie in memory as those of the original's header."""

import numpy as np
import pytest

from dynmem.gmm import GmmError, Status, structures
from dynmem.gmm.structures import MODULE_NAME, MODULE_VERSION, ModuleText, Structure

# structure: (bytes, field: offset), for a 64-bit host
LAYOUTS: dict[str, tuple[int, dict[str, int]]] = {
    "GMMFREEPAGEDESC": (4, {"idPage": 0}),
    "GMMPAGEDESC": (16, {"HCPhysGCPhys": 0, "idPage": 8, "idSharedPage": 12}),
    "GMMVMSIZES": (16, {"cBasePages": 0, "cShadowPages": 8, "cFixedPages": 12}),
    "GMMVMSTATS": (
        104,
        {
            "Reserved": 0,
            "Allocated": 16,
            "cPrivatePages": 32,
            "cSharedPages": 40,
            "cBalloonedPages": 48,
            "cMaxBalloonedPages": 56,
            "cReqBalloonedPages": 64,
            "cReqActuallyBalloonedPages": 72,
            "cReqDeflatePages": 80,
            "enmPolicy": 88,
            "enmPriority": 92,
            "fBallooningEnabled": 96,
            "fSharedPagingEnabled": 97,
            "fMayAllocate": 98,
            "afReserved": 99,
        },
    ),
    "GMMSTATS": (
        200,
        {
            "cMaxPages": 0,
            "cReservedPages": 8,
            "cOverCommittedPages": 16,
            "cAllocatedPages": 24,
            "cSharedPages": 32,
            "cDuplicatePages": 40,
            "cLeftBehindSharedPages": 48,
            "cBalloonedPages": 56,
            "cChunks": 64,
            "cFreedChunks": 68,
            "cShareableModules": 72,
            "au64Reserved": 80,
            "VMStats": 96,
        },
    ),
    "VMMDEVSHAREDREGIONDESC": (16, {"GCRegionAddr": 0, "cbRegion": 8, "u32Alignment": 12}),
    "GMMSHAREDREGIONDESC": (24, {"GCRegionAddr": 0, "cbRegion": 8, "u32Alignment": 12, "paidPages": 16}),
    "AVLGCPTRNODECORE": (32, {"Key": 0, "pLeft": 8, "pRight": 16, "uchHeight": 24}),
    "GMMSHAREDMODULE": (
        216,
        {
            "Core": 0,
            "cbModule": 32,
            "cRegions": 36,
            "cUsers": 40,
            "enmGuestOS": 44,
            "szName": 48,
            "szVersion": 176,
            "aRegions": 192,
        },
    ),
    "GMMSHAREDPAGEDESC": (24, {"HCPhys": 0, "GCPhys": 8, "idPage": 16, "u32Alignment": 20}),
}


def structure(name: str) -> Structure:
    found = getattr(structures, name)
    assert isinstance(found, np.dtype)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_structure_has_the_size_and_its_fields_the_places_of_the_original(name: str) -> None:
    size, offsets = LAYOUTS[name]
    dtype = structure(name)
    assert dtype.itemsize == size
    assert dtype.fields is not None
    assert {field: place[1] for field, place in dtype.fields.items()} == offsets


def test_every_structure_is_compared() -> None:
    assert {name for name, value in vars(structures).items() if isinstance(value, np.dtype)} == LAYOUTS.keys()


def test_a_boolean_is_one_byte_and_a_number_is_little_endian_on_every_host() -> None:
    stats = np.zeros(1, structures.GMMSTATS)
    stats["cChunks"] = 0x01020304
    stats["VMStats"]["fMayAllocate"] = True
    data = stats.tobytes()
    assert data[64:68] == b"\x04\x03\x02\x01"
    assert [place for place, byte in enumerate(data) if byte and place >= 68] == [96 + 98]


def test_descriptors_of_an_allocation_name_no_address_and_no_page() -> None:
    descriptors = structures.page_descriptors(3)
    assert descriptors.tobytes() == (b"\xff" * 8 + b"\0" * 8) * 3


def test_descriptors_of_a_free_carry_the_page_ids() -> None:
    assert structures.free_page_descriptors([512, 2**28 - 1]).tobytes() == b"\0\2\0\0\xff\xff\xff\x0f"


TEXTS = [
    (MODULE_NAME, 127, Status.MODULE_NAME_TOO_LONG),
    (MODULE_VERSION, 15, Status.MODULE_VERSION_TOO_LONG),
]


@pytest.mark.parametrize(("text", "most", "code"), TEXTS)
def test_a_name_has_127_characters_at_most_and_a_version_15(
    text: ModuleText, most: int, code: Status
) -> None:
    assert text.encode("n" * most) == b"n" * most
    assert text.decode(b"n" * most + b"\0") == "n" * most
    assert text.decode(b"n" * most) == "n" * most  # numpy takes the last 0 byte off
    with pytest.raises(GmmError, match=f"{most + 1} bytes long; {most} are the most") as refused:
        text.encode("n" * (most + 1))
    assert refused.value.code is code
    with pytest.raises(GmmError, match=f"{most} are the most") as refused:
        text.decode(b"n" * (most + 1))
    assert refused.value.code is code


def test_a_text_ends_at_its_first_0_byte() -> None:
    assert MODULE_NAME.decode(b"libc.so\0left from before") == "libc.so"
    assert MODULE_NAME.decode(b"\0" + b"n" * 127) == ""
    with pytest.raises(GmmError, match="0 byte"):
        MODULE_NAME.encode("lib\0c")


def test_a_text_that_is_not_utf_8_is_refused_both_ways() -> None:
    for refuse in (lambda: MODULE_NAME.decode(b"\xff"), lambda: MODULE_NAME.encode("\udc80")):
        with pytest.raises(GmmError, match="not UTF-8") as refused:
            refuse()
        assert refused.value.code is Status.INVALID_PARAMETER
