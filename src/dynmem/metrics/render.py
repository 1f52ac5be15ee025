"""Renders a status as the text that a scraper reads."""

from typing import TYPE_CHECKING

from dynmem.metrics.families import FAMILIES, Scrape
from dynmem.metrics.text import family_lines

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply


def render(status: "StatusReply") -> bytes:
    """Return every family of metrics that has a sample."""
    scrape = Scrape(status)
    lines = [
        line
        for name, kind, meaning, samples, _ in FAMILIES
        for line in family_lines(name, kind, meaning, samples(scrape))
    ]
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")
