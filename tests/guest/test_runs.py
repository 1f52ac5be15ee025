"""Runs of pages: cutting, joining, and a bag of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.guest.runs import RUN_PAGES_MAX, RunBag, Runs, cut, merge, runs_of, split
from dynmem.guest.splitmix import SplitMix


def random(seed: int = 7) -> SplitMix:
    return SplitMix(seed)


def tag_of(runs: Runs) -> dict[int, int]:
    return dict(zip(runs.pages().tolist(), runs.page_tags().tolist(), strict=True))


@st.composite
def disjoint_runs(draw: st.DrawFn) -> Runs:
    pieces = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3000)), max_size=20))
    starts, counts, at = [], [], 0
    for gap, count in pieces:
        starts.append(at + gap)
        counts.append(count)
        at += gap + count
    return runs_of(starts, counts, tag=draw(st.integers(0, 9)))


@given(disjoint_runs(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_cutting_keeps_every_page_once_and_no_piece_is_longer_than_a_block(runs: Runs, seed: int) -> None:
    pieces = cut(runs, random(seed))
    assert sorted(pieces.pages().tolist()) == runs.pages().tolist()
    assert pieces.starts.size == 0 or 1 <= pieces.counts.min() <= pieces.counts.max() <= RUN_PAGES_MAX
    assert set(pieces.tags.tolist()) == set(runs.tags.tolist())


@given(disjoint_runs(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_joining_undoes_cutting(runs: Runs, seed: int) -> None:
    again = merge(cut(runs, random(seed)))
    assert again.pages().tolist() == runs.pages().tolist()
    assert bool((again.starts[1:] > (again.starts + again.counts)[:-1]).all())


def test_pieces_are_of_very_different_length_in_random_order() -> None:
    pieces = cut(runs_of((0,), (1 << 16,)), random())
    assert 1 < np.median(pieces.counts) <= 64
    assert pieces.counts.min() == 1
    assert pieces.counts.max() > 256
    assert not bool((np.diff(pieces.starts) > 0).all())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(st.integers(1, 50), max_size=12)),
            st.tuples(st.just("take"), st.tuples(st.integers(0, 200), st.none() | st.integers(0, 6))),
            st.tuples(st.just("slice"), st.tuples(st.integers(0, 200), st.integers(1, 60))),
        ),
        max_size=30,
    )
)
@settings(max_examples=120, deadline=None)
def test_a_bag_behaves_as_a_set_of_pages_with_tags(steps: list[tuple[str, object]]) -> None:
    bag, model, page, tag = RunBag(random()), dict[int, int](), 0, 0
    for action, argument in steps:
        if action == "put":
            assert isinstance(argument, list)
            tag += 1
            starts = page + np.cumsum([0, *argument])[:-1].astype(np.int64)
            runs = runs_of(starts, argument, tag)
            bag.put(runs)
            model |= dict.fromkeys(runs.pages().tolist(), tag)
            page += sum(argument)
        elif action == "take":
            assert isinstance(argument, tuple)
            pages, runs_max = argument
            taken = bag.take(pages, runs_max)
            assert taken.page_count <= pages
            assert runs_max is None or taken.starts.size <= runs_max
            if runs_max is None:
                assert taken.page_count == min(pages, len(model))
            for taken_page, taken_tag in tag_of(taken).items():
                assert model.pop(taken_page) == taken_tag
        else:
            assert isinstance(argument, tuple)
            seen = bag.slice(*argument)
            assert seen.page_count == max(0, min(argument[1], len(model) - argument[0]))
            assert (
                dict(zip(seen.pages().tolist(), seen.page_tags().tolist(), strict=True)).items()
                <= model.items()
            )
        assert bag.page_count == len(model)
        assert dict(zip(bag.all().pages().tolist(), bag.all().page_tags().tolist(), strict=True)) == model


@given(
    st.lists(st.integers(1, 50), max_size=12),
    st.integers(0, 300),
    st.integers(0, 300),
    st.none() | st.integers(0, 80),
)
@settings(max_examples=80, deadline=None)
def test_what_is_taken_from_a_stretch_of_a_bag_was_in_it_and_the_rest_stays(
    counts: list[int], start: int, length: int, pages: int | None
) -> None:
    bag = RunBag(random())
    starts = np.cumsum([0, *counts])[:-1].astype(np.int64) * 2
    for number, (first, count) in enumerate(zip(starts.tolist(), counts, strict=True)):
        bag.put(runs_of((first,), (count,), number))
    model = tag_of(bag.all())
    inside = {page for page in model if start <= page < start + length}
    taken = bag.take_within(start, start + length, pages)
    assert taken.page_count == (len(inside) if pages is None else min(pages, len(inside)))
    assert tag_of(taken).items() <= {page: model[page] for page in inside}.items()
    assert tag_of(bag.all()) | tag_of(taken) == model
    assert bag.page_count == len(model) - taken.page_count


@given(disjoint_runs(), st.integers(0, 5000), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_split_runs_are_the_first_pages_and_the_rest(runs: Runs, pages: int, runs_max: int) -> None:
    first, rest = split(runs, pages, runs_max)
    assert first.page_count <= pages
    assert first.starts.size <= runs_max
    assert [*first.pages().tolist(), *rest.pages().tolist()] == runs.pages().tolist()
    assert first.page_count == min(pages, int(runs.counts[:runs_max].sum()))
