"""Build the packages for Debian of the sdist and the wheel; `scripts/dist.py` calls it.

Each has dynmem and what it needs in an environment of its own below /usr/lib/dynmem, whose Python is
Debian's: docs/release.md says why. Two builds of one commit have the same bytes.
"""

import email.utils
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from scripts import dist

CACHE: Final = dist.ROOT / ".cache" / "wheels"
REQUIREMENTS: Final = dist.ROOT / "contrib" / "debian" / "requirements.txt"
PRIVATE: Final = "usr/lib/dynmem"
#: Of what manylinux wheels were built against; pip takes the first that there is.
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64")
#: Where a file of the wheel's share belongs on Debian, by the beginning of its path; the first that fits.
_PLACES: Final = {
    "share/zsh/site-functions/": "usr/share/zsh/vendor-completions/",
    "share/dynmem/systemd/": "usr/lib/systemd/system/",
    "share/": "usr/share/",
}
_LAUNCHER: Final = f"""#!/{PRIVATE}/bin/python -I
from dynmem_command import main

main()
"""
_MAINTAINER: Final = "The dynmem authors <dynmem@localhost>"
_CHANGES: Final = """dynmem ({version}) stable; urgency=medium

  * CHANGELOG.md.gz has what is new.

 -- {maintainer}  {date}
"""
_CONTROL: Final = """Package: dynmem
Version: {version}
Architecture: amd64
Maintainer: {maintainer}
Installed-Size: {kib}
Depends: python{python}, libc6 (>= 2.28), libgcc-s1, libstdc++6, zlib1g, init-system-helpers (>= 1.54)
Suggests: python3-libvirt, prometheus-node-exporter
Section: admin
Priority: optional
Description: memory for the virtual machines of a KVM host, by demand
 dynmem gives each virtual machine the memory it needs right now, and takes back
 what it does not, with the balloon that the guest already has. It begins in
 observe mode, in which nothing is changed.
"""


class Release(NamedTuple):
    """A release of Debian, and its Python."""

    number: int
    python: str

    @property
    def site_packages(self) -> str:
        """Where Python packages are, in the environment below /usr/lib/dynmem."""
        return f"{PRIVATE}/lib/python{self.python}/site-packages"


RELEASES: Final = (Release(12, "3.11"), Release(13, "3.13"))


def fetched(release: Release, requirements: Path = REQUIREMENTS) -> list[Path]:
    """Return the wheels that dynmem needs there: of the versions and hashes that are written down."""
    # A folder for each set of versions: what another one brought stays out of the package.
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"debian-{release.number}-{wanted}"
    folder.mkdir(parents=True, exist_ok=True)
    abi = "cp" + release.python.replace(".", "")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={release.python}", f"--abi={abi}", "--abi=none"),
            *(f"--platform={each}" for each in _PLATFORMS),
            *("--find-links", folder, "--dest", folder),
            *("--requirement", requirements),
        ],
        check=True,
    )
    return sorted(folder.glob("*.whl"))


def unpack(wheel: Path, root: Path, site_packages: str) -> None:
    """Put the files of a wheel where they belong below a root, but the tests of what dynmem needs."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            top, _, below = member.filename.partition("/")
            if member.is_dir() or "/tests/" in member.filename:
                continue
            if top.endswith(".data"):
                path = root / placed(below.removeprefix("data/"))
                write(path, archive.read(member), executable=bool(member.external_attr >> 16 & 0o100))
            else:
                write(root / site_packages / member.filename, archive.read(member))


def placed(path: str) -> str:
    """Return where Debian has a file that a wheel has below a prefix."""
    begin = next(each for each in _PLACES if path.startswith(each))
    return _PLACES[begin] + path.removeprefix(begin)


def write(path: Path, content: bytes, *, executable: bool = False) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if "share/man" in str(path):
        path, content = path.with_name(path.name + ".gz"), gzip.compress(content, mtime=0)
    path.write_bytes(content)
    path.chmod(0o755 if executable else 0o644)


def fill(root: Path, source: Path, wheels: Iterable[Path], release: Release) -> None:
    """Write all files of the package below a root, from the sources and from wheels."""
    for wheel in wheels:
        unpack(wheel, root, release.site_packages)
    # After ours: python3-libvirt is Debian's, since it has no wheel.
    write(root / release.site_packages / "debian.pth", b"/usr/lib/python3/dist-packages\n")
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {release.python}\n"
    write(root / PRIVATE / "pyvenv.cfg", settings.encode())
    python = root / PRIVATE / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(f"/usr/bin/python{release.python}")
    write(root / "usr" / "bin" / "dynmem", _LAUNCHER.encode(), executable=True)
    debian = source / "contrib" / "debian"
    write(root / "etc" / "dynmem" / "config.toml", (debian / "config.toml").read_bytes())
    (root / "etc" / "dynmem" / "config.d").mkdir()
    papers = root / "usr" / "share" / "doc" / "dynmem"
    write(papers / "copyright", (debian / "copyright").read_bytes())
    write(papers / "CHANGELOG.md.gz", gzip.compress((source / "CHANGELOG.md").read_bytes(), mtime=0))


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the regular files below a root by their names there, in order."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(root).as_posix(), path


def describe(root: Path, source: Path, version: str, release: Release) -> None:
    """Write what dpkg reads about the files below a root."""
    found = list(files(root))
    kib = sum(-(-path.stat().st_size // 1024) for _, path in found)
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n"
        for name, path in found
    ]
    about = root / "DEBIAN"
    control = _CONTROL.format(version=version, maintainer=_MAINTAINER, kib=kib, python=release.python)
    write(about / "control", control.encode())
    write(about / "md5sums", "".join(sums).encode())
    write(about / "conffiles", "".join(f"/{name}\n" for name, _ in found if name.startswith("etc/")).encode())
    for script in ("postinst", "prerm", "postrm"):
        write(about / script, (source / "contrib" / "debian" / script).read_bytes(), executable=True)


def version_of(wheel: Path, built: dist.Commit | None, release: Release) -> str:
    """Return the package's version: that of dynmem, or one below it, in the order of time, before a tag."""
    version = wheel.name.split("-")[1]
    if built is None:
        return f"{version}~0+deb{release.number}"
    tags = dist.git("tag", "--points-at", built.number).decode().split()
    if f"v{version}" in tags and not built.is_changed:
        return f"{version}+deb{release.number}"
    changed = ".changed" if built.is_changed else ""
    return f"{version}~{built.time}.{built.number[:8]}{changed}+deb{release.number}"


def build(
    sdist: Path,
    wheels: Sequence[Path],
    out: Path,
    release: Release,
    built: dist.Commit | None,
    *,
    level: int = 6,
) -> Path:
    """Build the package for a release from the sdist and wheels, dynmem's first, and return it."""
    epoch = dist.epoch_of(built)
    version = version_of(wheels[0], built, release)
    made = out / f"dynmem_{version}_amd64.deb"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        dist.unpacked(gzip.decompress(sdist.read_bytes()), Path(name))
        source = Path(name, sdist.name.removesuffix(".tar.gz"))
        fill(root, source, wheels, release)
        date = email.utils.formatdate(epoch)
        changes = _CHANGES.format(version=version, maintainer=_MAINTAINER, date=date).encode()
        write(root / "usr/share/doc/dynmem/changelog.gz", gzip.compress(changes, mtime=0))
        describe(root, source, version, release)
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
        subprocess.run(
            # One thread: how xz divides its work is in the bytes.
            [
                *("dpkg-deb", "--root-owner-group", "-Zxz", f"-z{level}", "--threads-max=1"),
                *("--build", root, made),
            ],
            check=True,
            env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
            stdout=subprocess.DEVNULL,
        )
    return made


def packages(sdist: Path, wheel: Path, out: Path, built: dist.Commit | None) -> list[Path]:
    """Build the packages for all releases."""
    return [build(sdist, [wheel, *fetched(each)], out, each, built) for each in RELEASES]
