"""What a guest reports of its crash."""

from typing import Final, NamedTuple

_LINES: Final = 8  # of the guest's own log: its last ones say why
_LINE_CHARACTERS: Final = 120


class GuestCrash(NamedTuple):
    """A crash, as by the crash MSRs of Hyper-V.

    Attributes:
        parameters: Five numbers of the guest's own; with Linux the last two are where its text is.
        text: The end of the guest's log, if it gave any.

    """

    parameters: tuple[int, int, int, int, int]
    text: str = ""

    def described(self) -> str:
        """Return it in one line, in characters that no terminal takes for a command."""
        numbers = ", ".join(f"{number:#x}" for number in self.parameters)
        lines = [line.strip() for line in self.text.splitlines() if line.strip()][-_LINES:]
        if not lines:
            return f"it reports {numbers}"
        shown = " | ".join(ascii(line[:_LINE_CHARACTERS])[1:-1] for line in lines)
        return f"it reports {numbers}; its last lines: {shown}"
