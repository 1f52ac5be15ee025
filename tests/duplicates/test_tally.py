"""What classes of equal pages would save, beside the definitions counted one page at a time."""

import math

import numpy as np
import pytest

from dynmem.duplicates.tally import KSM_SHARING_MAX, Tally

VMS = 3


def test_a_class_within_one_vm_is_saved_there() -> None:
    tally = Tally(VMS)
    tally.add_class(np.array([0, 4, 0]))
    assert tally.equal_pages.tolist() == [0, 4, 0]
    assert tally.inside_pages.tolist() == [0, 3, 0]
    assert tally.across_pages.tolist() == [0, 0, 0]
    assert tally.sharing_pages.tolist() == [0, 3, 0]
    assert (tally.saved_pages, tally.classes) == (3, 1)


def test_a_class_of_two_vms_is_divided_between_them() -> None:
    tally = Tally(VMS)
    tally.add_class(np.array([1, 0, 3]))
    assert tally.across_pages.tolist() == [1, 0, 3]
    assert tally.inside_pages.tolist() == [0, 0, 2]
    assert tally.sharing_pages.tolist() == [0.75, 0, 2.25]
    assert tally.saved_pages == 3


def test_a_page_alone_saves_nothing() -> None:
    tally = Tally(VMS)
    tally.add_class(np.array([0, 1, 0]))
    tally.add(np.array([0, 1, 2]), np.array([True, True, True]))
    assert (tally.classes, tally.saved_pages, tally.equal_pages.sum()) == (0, 0, 0)


def test_ksm_keeps_a_copy_for_each_256_pages() -> None:
    tally = Tally(VMS)
    tally.add_class(np.array([0, KSM_SHARING_MAX + 1, 0]))
    assert tally.saved_pages == KSM_SHARING_MAX
    assert tally.ksm_pages[1] == pytest.approx(KSM_SHARING_MAX - 1)


def test_many_classes_at_once_count_as_each_alone() -> None:
    random = np.random.default_rng(1)
    classes = [random.integers(0, 4, VMS) for _ in range(200)]
    at_once, one_by_one = Tally(VMS), Tally(VMS)
    vms = np.concatenate([np.repeat(np.arange(VMS), counts) for counts in classes])
    begins = np.zeros(vms.size, np.bool_)
    sizes = [int(counts.sum()) for counts in classes]
    begins[[at for at, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True) if size]] = True
    at_once.add(vms, begins)
    for counts in classes:
        one_by_one.add_class(counts)
    for name in ("equal_pages", "inside_pages", "across_pages", "sharing_pages", "ksm_pages"):
        assert getattr(at_once, name) == pytest.approx(getattr(one_by_one, name)), name
    shared = [int(counts.sum()) for counts in classes if counts.sum() > 1]
    assert at_once.saved_pages == one_by_one.saved_pages == sum(shared) - len(shared)
    assert at_once.sharing_pages.sum() == pytest.approx(at_once.saved_pages)
    copies = sum(math.ceil(size / KSM_SHARING_MAX) for size in shared)
    assert at_once.ksm_pages.sum() == pytest.approx(sum(shared) - copies)
