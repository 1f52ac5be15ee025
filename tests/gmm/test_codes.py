"""The enumerations and codes of the Global Memory Manager are those of its header."""

import ast
import enum
from pathlib import Path

import pytest

from dynmem.gmm import Account, BalloonAction, GmmError, OcPolicy, OsFamily, Priority, Status, codes
from dynmem.gmm.codes import RESERVED

SOURCE = Path(__file__).resolve().parents[2] / "src" / "dynmem"
ENUMERATIONS: dict[str, tuple[type[enum.IntEnum], str]] = {
    "GMMOCPOLICY": (OcPolicy, "INVALID NO_OC TBD"),
    "GMMPRIORITY": (Priority, "INVALID HIGH NORMAL LOW"),
    "GMMACCOUNT": (Account, "INVALID BASE SHADOW FIXED"),
    "GMMBALLOONACTION": (BalloonAction, "INVALID INFLATE DEFLATE RESET"),
}
# VBox/err.h, -3800 to -3831 in order; positive: the call succeeded
BLOCK = """
VERR_GMM_SEED_ME VERR_GMM_OUT_OF_MEMORY VERR_GMM_HIT_GLOBAL_LIMIT VERR_GMM_HIT_VM_ACCOUNT_LIMIT
VERR_GMM_ATTEMPT_TO_FREE_TOO_MUCH VERR_GMM_ATTEMPT_TO_DEFLATE_TOO_MUCH VERR_GMM_PAGE_NOT_FOUND
VERR_GMM_PAGE_NOT_PRIVATE VERR_GMM_PAGE_NOT_SHARED VERR_GMM_PAGE_ALREADY_FREE VERR_GMM_NOT_PAGE_OWNER
VERR_GMM_CHUNK_NOT_FOUND VERR_GMM_CHUNK_ALREADY_MAPPED VERR_GMM_CHUNK_NOT_MAPPED
VERR_GMM_TOO_MANY_CHUNK_MAPPINGS VERR_GMM_MEMORY_RESERVATION_DECLINED VERR_GMM_IS_NOT_SANE
VERR_GMM_CHUNK_INSERT VERR_GMM_INSTANCE VERR_GMM_MTX_FLAGS VERR_GMM_ALLOC_PAGES_IPE VERR_GMM_ACTUAL_PAGES_IPE
VERR_GMM_MODULE_NAME_TOO_LONG VERR_GMM_MODULE_VERSION_TOO_LONG VERR_GMM_TOO_MANY_REGIONS
VERR_GMM_TOO_MANY_PER_VM_MODULES VERR_GMM_TOO_MANY_GLOBAL_MODULES VINF_GMM_SHARED_MODULE_ALREADY_REGISTERED
VERR_GMM_SHARED_MODULE_ADDRESS_CLASH VERR_GMM_SHARED_MODULE_NOT_FOUND VERR_GMM_BAD_SHARED_MODULE_SIZE
VERR_GMM_SHARED_MODULE_BAD_REGIONS_SIZE
"""
OUTSIDE = {
    "VINF_SUCCESS": 0,
    "VERR_INVALID_PARAMETER": -2,
    "VERR_WRONG_ORDER": -22,
    "VERR_NOT_SUPPORTED": -37,
}


def test_invalid_is_0_in_every_enumeration_and_the_others_follow_in_the_headers_order() -> None:
    for enumeration, names in ENUMERATIONS.values():
        assert [(member.name, member.value) for member in enumeration] == [
            (name, number) for number, name in enumerate(names.split())
        ]


@pytest.mark.parametrize("prefix", ENUMERATIONS)
def test_every_enumeration_has_the_names_of_the_header_an_end_after_its_last_value_and_32_bits(
    prefix: str,
) -> None:
    enumeration, _ = ENUMERATIONS[prefix]
    named = {name: value for name, value in vars(codes).items() if name.startswith(f"{prefix}_")}
    hack = "MAKE_32BIT_HACK" if prefix == "GMMBALLOONACTION" else "32BIT_HACK"
    assert named == {
        **{f"{prefix}_{member.name}": member for member in enumeration},
        f"{prefix}_END": max(enumeration) + 1,
        f"{prefix}_{hack}": 2**31 - 1,
    }


def test_the_guest_systems_are_numbered_as_in_ostypes() -> None:
    systems = ("WINDOWS", "LINUX", "FREEBSD", "SOLARIS", "MACOSX")
    names = ["UNKNOWN", *(f"{system}{bits}" for system in systems for bits in (32, 64))]
    assert [(member.value, member.name) for member in OsFamily] == [*enumerate(names)]


def test_every_status_code_has_the_name_and_the_number_of_the_header() -> None:
    numbers = {
        name: 3800 + place if name.startswith("VINF") else -3800 - place
        for place, name in enumerate(BLOCK.split())
    }
    ours = Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    assert {status.symbol: status.value for status in Status if status is not ours} == numbers | OUTSIDE


def test_the_code_that_the_original_never_numbered_is_outside_its_block() -> None:
    ours = Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT
    assert ours.symbol == "VERR_GMM_OVERCOMMITTED_TRY_AGAIN_IN_A_BIT"
    assert ours < -99_999


def used_codes() -> set[str]:
    """Return the names of the codes in the source of the books and of the stores."""
    return {
        node.attr
        for file in SOURCE.rglob("*.py")
        if file.parent.name in ("gmm", "chunks") and file.name != "codes.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Status"
    }


def test_a_call_uses_every_code_that_is_not_reserved_and_no_other() -> None:
    assert used_codes() == {status.name for status in Status if status not in RESERVED}


def test_an_error_carries_its_code_and_ends_with_the_name_of_the_original() -> None:
    error = GmmError(Status.PAGE_NOT_FOUND, "page 7 is not in any chunk")
    assert error.code is Status.PAGE_NOT_FOUND
    assert error.sentence == "page 7 is not in any chunk"
    assert str(error) == "page 7 is not in any chunk (VERR_GMM_PAGE_NOT_FOUND -3806)"
