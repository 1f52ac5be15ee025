"""Paused VMs: each is left exactly as it is until its time is over, or the operator ends the pause.

Nothing is sent to such a VM, not even in an emergency. What it holds, and what it was granted before, counts
in full, so nobody is promised any of it. When that leaves the others less than their floors, it is said.
"""

from collections.abc import Iterable, Mapping

from dynmem.units import format_pages


class Pauses:
    """Which VMs are paused, by name, and until when; also those that are not there yet."""

    def __init__(self) -> None:
        self._until_ns: dict[str, int] = {}
        self._starved = False

    def __contains__(self, name: object) -> bool:
        return name in self._until_ns

    def until_ns(self, name: str) -> int | None:
        """Return when the pause of a VM ends; None if it is not paused."""
        return self._until_ns.get(name)

    def pause(self, names: Iterable[str], until_ns: int) -> None:
        """Leave these VMs as they are until then; a pause before it is replaced."""
        self._until_ns.update(dict.fromkeys(names, until_ns))

    def end(self, names: Iterable[str]) -> list[str]:
        """Manage these VMs again; return those that were paused."""
        return [name for name in names if self._until_ns.pop(name, None) is not None]

    def expire(self, now_ns: int) -> list[str]:
        """End the pauses whose time is over; return whose they were."""
        return self.end([name for name, until_ns in self._until_ns.items() if until_ns <= now_ns])

    def starving_lines(self, held: Mapping[str, int], *, cut: str) -> list[str]:
        """Return a line when floors begin not to fit beside what paused VMs hold, or fit again.

        *held* is what each paused VM that is there holds, in pages; *cut* is where the plan's memory ends.
        """
        starved = cut == "floors" and bool(held)
        if starved == self._starved:
            return []
        self._starved = starved
        if not starved:
            return ["the floors fit beside the paused VMs, or none is paused any more"]
        whose = ", ".join(f"{name} holds {format_pages(pages)}" for name, pages in held.items())
        undo = f"dynmem pause {next(iter(held))} --undo"
        return [f"the floors of the others do not fit while VMs are paused: {whose}; to end a pause: {undo}"]
