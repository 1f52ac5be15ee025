"""The estimators that were tried for `dynmem fit`, scored on hosts that `bench.fit_traces` makes.

Each day (or seven days) from the second week on is held out, and answered from the days before it. The answer
that `dynmem fit` gives is scored by its own code, beside the others.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np

from bench.fit_traces import KINDS, Floats, middle, trace
from dynmem.fit.counting import count, late_share
from dynmem.fit.held_out import came, held_out
from dynmem.fit.trace import Model, as_it_is

RISK: Final = 0.01
#: Hosts of each kind: those that the estimator was chosen on, and those that were not looked at before.
SEEDS: Final = (range(5), range(5, 10))
CHOSEN: Final = "dynmem fit"
_PARTS: Final = 1000


class Seen(NamedTuple):
    """What is known before a day: of each day, what fitted in all but the risk of it; and in each span."""

    days: Floats
    spans: Floats


Estimator = Callable[[Seen], float]


def _level(spans: Floats) -> float:
    """Return what fits in all but the risk of spans of one length."""
    return float(np.sort(spans.ravel())[int(RISK * spans.size)])


def _same(seen: Seen) -> Floats:
    """Return the same weekday, the last one first."""
    return seen.days[::-1][6::7]


def _loss(seen: Seen) -> float:
    if seen.days.size < 14:
        return 0.0
    lost = seen.days[-14:-7] - seen.days[-7:]
    return float(np.median(lost)) if (lost > 0).sum() >= 6 else 0.0


def _trend(seen: Seen) -> float:
    days = seen.days[-14:]
    slope, base = np.polyfit(np.arange(days.size), days, 1)
    return float(base + slope * days.size)


def _fading(seen: Seen) -> float:
    """Return the mean, the last days most, with what each weekday usually is beside the days around it."""
    days = seen.days
    around = np.array([np.median(days[max(0, at - 3) : at + 4]) for at in range(days.size)])
    usual = np.array([np.median((days - around)[weekday::7]) for weekday in range(7)])
    plain = days - usual[np.arange(days.size) % 7]
    weights = 0.2 * 0.8 ** np.arange(days.size)[::-1]
    return float(plain @ weights / weights.sum() + usual[days.size % 7])


OF_A_DAY: Final[dict[str, Estimator]] = {
    "all recorded time": lambda seen: _level(seen.spans),
    "the last 7 days": lambda seen: _level(seen.spans[-7:]),
    "the worst day of 7": lambda seen: seen.days[-7:].min(),
    "the median of 7 days": lambda seen: float(np.median(seen.days[-7:])),
    "yesterday": lambda seen: seen.days[-1],
    "a line through 14 days": _trend,
    "each time of day: median of 14": lambda seen: _level(np.median(seen.spans[-14:], axis=0)),
    "each time of day: quartile of 14": lambda seen: _level(np.quantile(seen.spans[-14:], 0.25, axis=0)),
    "the weekday a week ago": lambda seen: _same(seen)[0],
    "the mean of 2 such weekdays": lambda seen: _same(seen)[:2].mean(),
    "the mean of 3 such weekdays": lambda seen: _same(seen)[:3].mean(),
    "the worse of 2 such weekdays": lambda seen: _same(seen)[:2].min(),
    "the mean of 2, less the loss": lambda seen: _same(seen)[:2].mean() - _loss(seen),
    "a fading mean, by weekday": _fading,
}
OF_A_WEEK: Final[dict[str, Estimator]] = {
    "all recorded time": lambda seen: _level(seen.spans),
    "the last 14 days": lambda seen: _level(seen.spans[-14:]),
    "the last 7 days": lambda seen: _level(seen.spans[-7:]),
    "the worst day of 7": lambda seen: seen.days[-7:].min(),
    "the worst day of 14": lambda seen: seen.days[-14:].min(),
    "the second worst day of 7": lambda seen: np.sort(seen.days[-7:])[1],
    "the last 7 days, less the loss": lambda seen: _level(seen.spans[-7:]) - _loss(seen),
    "the worst minute so far": lambda seen: seen.spans.min(),
}


class Score(NamedTuple):
    """How an estimator did: mean absolute error, part within 1, part too many, part of the time short."""

    mean: float
    within: float
    over: float
    late: float


def scores(kinds: Sequence[str], seeds: Sequence[int], ahead: int, *, days: int = 35) -> dict[str, Score]:
    """Return how each estimator did on all of these hosts together."""
    found: dict[str, list[tuple[int, float]]] = {}
    for kind in kinds:
        for seed in seeds:
            for name, each in _one(kind, seed, ahead, days).items():
                found.setdefault(name, []).extend(each)
    return {name: _score(each) for name, each in found.items()}


def _one(kind: str, seed: int, ahead: int, days: int) -> dict[str, list[tuple[int, float]]]:
    """Return each estimator's errors on one host, and the part of the time in which it was too many."""
    host = trace(kind, seed, days=days)
    model = Model(middle(host), 0)
    found: dict[str, list[tuple[int, float]]] = {}
    tried = OF_A_DAY if ahead == 1 else OF_A_WEEK
    for time in held_out(host, model, RISK, ahead):
        first = host.days - (host.end_ms - time.since_ms) // (host.per_day * host.span_ms)
        before = host.until(first)
        loads = as_it_is(before, model)
        spans = count(loads.capacity, loads.needed, loads.each, _PARTS).reshape(first, -1) / _PARTS
        ordered = np.sort(spans, axis=1)
        seen = Seen(ordered[:, int(RISK * ordered.shape[1])], spans)
        found.setdefault(CHOSEN, []).append((time.error, time.late_share))
        counts, weights = came(host.until(first + ahead), before, model)
        for name, estimate in tried.items():
            said = max(-1, int(np.floor(estimate(seen))))
            late = late_share(counts, weights, max(said, 0))
            found.setdefault(name, []).append((said - time.fitted, late))
    return found


def _score(times: Sequence[tuple[int, float]]) -> Score:
    errors, late = (np.array(column) for column in zip(*times, strict=True))
    size = np.abs(errors)
    return Score(
        float(size.mean()), float((size <= 1).mean()), float((errors > 0).mean()), float(late.mean())
    )


def _print(title: str, score: Score) -> None:
    print(f"  {title:<34} {score.mean:5.2f} {score.within:5.0%} {score.over:5.0%} {score.late:7.2%}")


if __name__ == "__main__":
    for chosen_on, days_ahead in product(SEEDS, (1, 7)):
        print(f"{days_ahead} days ahead, {chosen_on}: mean absolute error, within 1, too many, short")
        made = scores(KINDS, chosen_on, days_ahead)
        for name, score in sorted(made.items(), key=lambda each: each[1].mean):
            _print(name, score)
        for kind in KINDS:
            _print(kind, scores([kind], chosen_on, days_ahead)[CHOSEN])
