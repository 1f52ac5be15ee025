"""The two directions in which messages and packets travel between a guest and its host."""

import enum


class Direction(enum.Enum):
    """The way of a message; the value is how captures write it."""

    GUEST_TO_HOST = "G>H"
    HOST_TO_GUEST = "H>G"
