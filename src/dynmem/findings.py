"""What `dynmem doctor` found out about a host: a subject, a verdict, and what to do about it."""

import enum
from typing import NamedTuple


class Verdict(enum.Enum):
    """How far something works. The words are part of the output of ``--json``."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


class Finding(NamedTuple):
    """One thing that was examined.

    Attributes:
        subject: What it is.
        verdict: How far it works; what is missing keeps one of dynmem's commands from running.
        detail: What was seen, and what follows from it.
        step: What to do about it; "" if nothing needs to be done.
    """

    subject: str
    verdict: Verdict
    detail: str
    step: str = ""
