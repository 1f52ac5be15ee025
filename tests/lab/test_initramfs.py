"""The archive we write, read back by a reader that was written from the format's description alone."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.lab.initramfs import Archive, build, compile_init

FIELDS = (
    "inode",
    "mode",
    "uid",
    "gid",
    "links",
    "mtime",
    "size",
    "maj",
    "min",
    "rmaj",
    "rmin",
    "names",
    "check",
)


def read_newc(archive: bytes) -> list[tuple[str, dict[str, int], bytes]]:
    entries: list[tuple[str, dict[str, int], bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        header = archive[at + 6 : at + 110].decode()
        fields = {name: int(header[8 * i : 8 * i + 8], 16) for i, name in enumerate(FIELDS)}
        raw = archive[at + 110 : at + 110 + fields["names"]]
        assert raw.endswith(b"\0")
        name = raw[:-1].decode()
        at = (at + 110 + fields["names"] + 3) & ~3
        data = archive[at : at + fields["size"]]
        at = (at + fields["size"] + 3) & ~3
        if name == "TRAILER!!!":
            assert at == len(archive)
            return entries
        entries.append((name, fields, data))


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


@given(st.lists(st.tuples(names, st.binary(max_size=300), st.booleans()), max_size=12))
def test_files_of_any_name_and_length_come_back_as_they_were(files: list[tuple[str, bytes, bool]]) -> None:
    archive = Archive()
    for name, data, executable in files:
        archive.file(name, data, executable=executable)
    read = [(name, data, fields["mode"]) for name, fields, data in read_newc(archive.finish())]
    assert read == [(name, data, 0o100755 if executable else 0o100644) for name, data, executable in files]


def test_every_entry_has_an_inode_of_its_own() -> None:
    entries = read_newc(build(b"init", [("a.ko", b"1"), ("b.ko", b"2")]))
    inodes = [fields["inode"] for _, fields, _ in entries]
    assert len(set(inodes)) == len(inodes)


def test_init_has_a_console_and_finds_its_modules_in_their_order() -> None:
    modules = [(f"{name}.ko", name.encode()) for name in "zyxwvutsrqponmlk"]
    entries = {name: (fields, data) for name, fields, data in read_newc(build(b"program", modules))}
    console, _ = entries["dev/console"]
    assert (console["mode"], console["rmaj"], console["rmin"]) == (0o020600, 5, 1)
    assert entries["init"][0]["mode"] == 0o100755
    in_order = sorted(name for name in entries if name.startswith("modules/"))
    assert [entries[name][1] for name in in_order] == [data for _, data in modules]


def test_init_compiles_into_a_static_program_without_a_warning() -> None:
    program = compile_init()
    assert program.startswith(b"\x7fELF")
    assert b"/lib64/ld-linux" not in program
