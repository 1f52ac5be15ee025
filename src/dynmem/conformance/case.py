"""A case of the suite, how cases are run, and their results."""

import enum
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import msgspec


class DeviationError(Exception):
    """The implementation under test did not do what must happen; the text says what it did."""


class NotApplicableError(Exception):
    """The case needs something that this implementation does not offer; the text says what."""


def fail(text: str) -> NoReturn:
    """Raise DeviationError with this text."""
    raise DeviationError(text)


def must(condition: object, text: str) -> None:
    """Raise DeviationError with `text` unless `condition` is true."""
    if not condition:
        raise DeviationError(text)


class UnderTest(Protocol):
    """The part of an adapter that running a case needs."""

    groups: frozenset[str]


class Case(msgspec.Struct, frozen=True):
    """One thing that must happen.

    Attributes:
        name: Stable, words joined by dashes, unique among the cases of its end.
        group: One of `GROUPS`.
        must: What must happen, in one sentence.
        source: Where to read that, or who relies on it.
        play: Plays it against a new implementation; raises DeviationError.

    """

    name: str
    group: str
    must: str
    source: str
    play: Callable[[Any], None]


class Verdict(enum.StrEnum):
    """The result of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # the implementation does not claim it, or lacks what the case needs
    BROKEN = "broken"  # the implementation or its adapter raised


class Result(msgspec.Struct, frozen=True):
    """The result of one case.

    Attributes:
        name: The name of the case.
        group: The group of the case.
        verdict: What came of it.
        detail: What happened instead, or why it was skipped, in a sentence; empty if it passed.
        must: What must happen.
        source: Where to read that, or who relies on it.

    """

    name: str
    group: str
    verdict: Verdict
    detail: str
    must: str
    source: str


def run_case(case: Case, factory: Callable[[], UnderTest]) -> Result:
    """Play one case against an implementation that `factory` makes."""
    verdict, detail = Verdict.PASSED, ""
    try:
        subject = factory()
        if case.group in subject.groups:
            case.play(subject)
        else:
            verdict, detail = Verdict.SKIPPED, f"does not claim the group {case.group!r}"
    except NotApplicableError as reason:
        verdict, detail = Verdict.SKIPPED, str(reason)
    except DeviationError as deviation:
        verdict, detail = Verdict.FAILED, str(deviation)
    except Exception as error:  # foreign code: whatever it raises is its failure
        verdict, detail = Verdict.BROKEN, f"{type(error).__name__}: {error}"
    return Result(case.name, case.group, verdict, detail, case.must, case.source)


def run(cases: Iterable[Case], factory: Callable[[], UnderTest]) -> list[Result]:
    """Play every case, each against a new implementation."""
    return [run_case(case, factory) for case in cases]


Play = Callable[[Any], None]


class CaseTable:
    """Cases in the order of their definition; names are distinct."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(self, case: Case) -> None:
        """Add a case."""
        assert all(case.name != other.name for other in self.cases), case.name
        self.cases.append(case)

    def case(self, name: str, group: str, must: str, source: str) -> Callable[[Play], Play]:
        """Add the decorated function as a case."""

        def enter(play: Play) -> Play:
            self.add(Case(name, group, must, source, play))
            return play

        return enter
