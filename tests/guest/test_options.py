"""The text that says what the embedded guest is."""

import pytest

from dynmem.dm.habits import LINUX
from dynmem.dm.windows import WINDOWS, Release, windows
from dynmem.errors import ConfigError
from dynmem.guest.curve import parse_load
from dynmem.guest.options import KINDS, Options, parse_options


def test_without_a_word_about_habits_the_guest_is_like_linux() -> None:
    assert parse_options("sine,period=20s") == Options(parse_load("sine,period=20s"), LINUX)


@pytest.mark.parametrize("text", ["sine,habits=windows,period=20s", "sine,period=20s,habits=windows"])
def test_habits_stand_anywhere_behind_the_name(text: str) -> None:
    assert parse_options(text) == Options(parse_load("sine,period=20s"), WINDOWS)


def test_each_release_that_speaks_a_bus_of_ours_can_be_played() -> None:
    assert set(KINDS.values()) == {LINUX, *(windows(release) for release in list(Release)[1:])}
    assert parse_options("idle,habits=windows-2012-r2").habits == windows(Release.SERVER_2012_R2)


@pytest.mark.parametrize("kind", ["", "windows-2008-r2", "Windows", "mac"])
def test_other_habits_are_refused_with_those_there_are(kind: str) -> None:
    with pytest.raises(ConfigError, match="is not one of linux, windows, windows-2012,"):
        parse_options(f"idle,habits={kind}")
