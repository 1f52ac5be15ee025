"""The memory limits above a process: all groups on the way to the root count."""

from pathlib import Path

from dynmem.cgroups import Limit, MemoryGroup, limits_above, memory_groups

MIB = 1 << 20


def group_at(root: Path, *parts: str) -> MemoryGroup:
    mounts = f"30 1 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw"
    (group,) = memory_groups(f"0::/{'/'.join(parts)}\n", mounts)
    group.folder.mkdir(parents=True)
    return group


def test_a_limit_far_above_counts_when_it_is_the_tightest(tmp_path: Path) -> None:
    group = group_at(tmp_path, "machine.slice", "web.scope")
    (group.folder / "memory.max").write_text(f"{800 * MIB}\n")
    (group.folder / "memory.high").write_text("max\n")
    (tmp_path / "machine.slice" / "memory.max").write_text("max\n")
    (tmp_path / "machine.slice" / "memory.high").write_text(f"{512 * MIB}\n")
    assert min(limits_above(group)) == Limit(512 * MIB, tmp_path / "machine.slice" / "memory.high")


def test_nothing_above_where_the_hierarchy_is_mounted_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1\n")
    group = group_at(tmp_path / "cgroup", "web.scope")
    assert limits_above(group) == []


def test_files_that_are_no_limits_are_none(tmp_path: Path) -> None:
    group = group_at(tmp_path, "web.scope")
    for text in ("", "max", "-1", "9223372036854771712", "7" * 100_000, "\xff"):
        (group.folder / "memory.max").write_text(text)
        assert limits_above(group) == []
    (group.folder / "memory.max").unlink()
    (group.folder / "memory.max").mkdir()
    assert limits_above(group) == []


def test_a_group_outside_of_our_cgroup_namespace_has_no_folder() -> None:
    assert not list(memory_groups("0::/../../web.scope\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 none rw"))
