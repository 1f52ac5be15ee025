"""The constants of the Global Memory Manager are the numbers of the original's headers."""

import pytest

from dynmem.gmm import constants

# name: (number, where the original has it)
NUMBERS = {
    "GMM_CHUNK_SHIFT": (21, "gmm.h"),
    "GMM_CHUNK_SIZE": (2 * 1024 * 1024, "gmm.h"),
    "GMM_CHUNK_NUM_PAGES": (512, "gmm.h"),
    "GMM_CHUNKID_SHIFT": (9, "gmm.h"),
    "GMM_CHUNKID_LAST": (0x7FFFF, "gmm.h"),
    "GMM_PAGEID_LAST": (0xFFFFFFF, "gmm.h"),
    "GMM_PAGEID_IDX_MASK": (0x1FF, "gmm.h"),
    "NIL_GMM_CHUNKID": (0, "gmm.h"),
    "NIL_GMM_PAGEID": (0, "gmm.h"),
    "GMM_GCPHYS_LAST": (0x00000FFFFFFF0000, "gmm.h"),
    "GMM_GCPHYS_UNSHAREABLE": (0x00000FFFFFFF1000, "gmm.h"),
    "NIL_RTHCPHYS": (0xFFFFFFFFFFFFFFFF, "types.h"),
    "NIL_RTGCPHYS": (0xFFFFFFFFFFFFFFFF, "types.h"),
    "GMM_PAGE_PFN_LAST": (0xFFFFFFF0, "GMMR0.cpp"),
    "GMM_PAGE_PFN_UNSHAREABLE": (0xFFFFFFF1, "GMMR0.cpp"),
    "GMM_PAGE_STATE_PRIVATE": (0, "GMMR0.cpp"),
    "GMM_PAGE_STATE_SHARED": (2, "GMMR0.cpp"),
    "GMM_PAGE_STATE_FREE": (3, "GMMR0.cpp"),
    "GMM_CHUNK_FLAGS_LARGE_PAGE": (1, "GMMR0.cpp"),
    "GMM_CHUNK_FLAGS_SEEDED": (2, "GMMR0.cpp"),
    "GMM_CHUNK_FREE_SET_SHIFT": (4, "GMMR0.cpp"),
    "GMM_CHUNK_FREE_SET_MASK": (15, "GMMR0.cpp"),
    "GMM_CHUNK_FREE_SET_LISTS": (33, "GMMR0.cpp"),
    "GMM_CHUNK_FREE_SET_UNUSED_LIST": (32, "GMMR0.cpp"),
    "GMM_MAX_SHARED_PER_VM_MODULES": (2048, "GMMR0.cpp"),
    "GMM_MAX_SHARED_GLOBAL_MODULES": (16834, "GMMR0.cpp"),
    "PGM_HANDY_PAGES": (128, "param.h"),
    "PGM_HANDY_PAGES_SET_FF": (32, "param.h"),
    "PGM_HANDY_PAGES_R3_ALLOC": (8, "param.h"),
    "PGM_HANDY_PAGES_RZ_ALLOC": (8, "param.h"),
    "PGM_HANDY_PAGES_RZ_TO_R3": (24, "param.h"),
    "PGM_HANDY_PAGES_MIN": (32, "param.h"),
    "GMM_SHARED_MODULE_MAX_NAME_STRING": (128, "gmm.h"),
    "GMM_SHARED_MODULE_MAX_VERSION_STRING": (16, "gmm.h"),
    "VMMDEVSHAREDREGIONDESC_MAX": (32, "VMMDev.h"),
    "SUPVMMR0REQHDR_MAGIC": (0x19730211, "sup.h"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_constant_has_the_number_that_it_has_in_the_original(name: str) -> None:
    assert getattr(constants, name) == NUMBERS[name][0]


def test_every_constant_with_a_name_of_the_original_is_compared() -> None:
    prefixes = ("GMM_", "NIL_", "PGM_", "VMMDEV", "SUP")
    assert {name for name in vars(constants) if name.startswith(prefixes)} == NUMBERS.keys()


def test_the_last_page_id_is_the_last_page_of_the_last_chunk() -> None:
    last = constants.GMM_CHUNKID_LAST << constants.GMM_CHUNKID_SHIFT | constants.GMM_PAGEID_IDX_MASK
    assert last == constants.GMM_PAGEID_LAST == 2**28 - 1


def test_no_guest_address_is_mistaken_for_one_of_the_two_marks() -> None:
    last, unshareable = constants.GMM_GCPHYS_LAST, constants.GMM_GCPHYS_UNSHAREABLE
    assert last < unshareable < constants.NIL_RTGCPHYS
    assert last % constants.PAGE_SIZE == unshareable % constants.PAGE_SIZE == 0
