"""Playing a conformance case as a test, which fails as the suite's own report does."""

from collections.abc import Callable

from dynmem.conformance.case import Case, UnderTest, Verdict, run_case


def assert_conforms(
    case: Case, factory: Callable[[], UnderTest], *, may_skip: Callable[[str], bool] = lambda _: False
) -> None:
    """Play the case; it must pass, or be skipped for a reason that `may_skip` takes."""
    result = run_case(case, factory)
    wanted = Verdict.SKIPPED if may_skip(result.detail) else Verdict.PASSED
    assert result.verdict is wanted, (
        f"what happened: {result.detail}\nwhat must:     {result.must}\nsource:        {result.source}"
    )
