"""What the documents name exists, and the checks they promise are the same everywhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAPERS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", ".github/**/*.md", "tests/captures/*.md", ".pre-commit-config.yaml")
    for path in ROOT.glob(pattern)
)
MUST_EXIST = {
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/style.md",
    ".github/pull_request_template.md",
    ".github/ISSUE_TEMPLATE/capture.md",
    ".pre-commit-config.yaml",
}
FOLDERS = ("src/", "contrib/", "tests/", "docs/", "scripts/", "bench/", "examples/", ".ci/", ".github/")
SOURCE = ROOT / "src" / "dynmem"
ROOMS = {path.name for path in SOURCE.iterdir() if path.is_dir()}

BELOW_SOURCE = re.compile(r"[a-z_]+/(?:[a-z_]+/)*(?:[a-z_0-9]+\.py)?")
QUOTED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
TARGET_CALL = re.compile(r"(?:^|[;&|])\s*make ([a-z][a-z0-9-]*)\b", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:work|home|root|Users|mnt|srv)/[\w.-]+")
REGISTRY = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|files\.python|test\.pypi)", re.IGNORECASE)


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))


def lint_commands(makefile: str) -> list[str]:
    """Return the commands of `make lint`, with the variables it uses written out."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None, "the Makefile has no lint target"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.group(1).splitlines()]


def hook_commands(config: str) -> list[str]:
    return re.findall(r"^\s+entry: (.+?)\s*$", config, re.MULTILINE)


def named_paths(text: str) -> set[str]:
    """Return the files and folders of this repository that a paper names, in quotes or as links.

    Quoted `room/` and `room/file.py` are below src/dynmem or beside the paper.
    """
    quoted = {word.split("::")[0] for word in QUOTED.findall(text)}
    paths = {
        word
        for word in quoted
        if (word.startswith(FOLDERS) and not re.search(r"[*<>{} ]|NAME", word))
        or BELOW_SOURCE.fullmatch(word)
    }
    return paths | {
        link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto")
    }


def named_modules(text: str) -> set[str]:
    """Return the modules that a paper names, with or without `dynmem.`, and what it names in them."""
    dotted = {word for word in QUOTED.findall(text) if re.fullmatch(r"[a-z]\w*(?:\.\w+)+", word)}
    whole = {word if word.startswith("dynmem.") else f"dynmem.{word}" for word in dotted}
    return {word for word in whole if word.split(".")[1] in ROOMS or word in dotted}


def module_exists(name: str) -> bool:
    """Return whether `name` is a module of this package, or a name that such a module's text defines."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        stem = ROOT.joinpath("src", *parts[:cut])
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                rest = parts[cut:]
                return not rest or rest[0] in defined_in(file)
    return False


def defined_in(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def read(paper: str) -> str:
    return (ROOT / paper).read_text()


def test_the_papers_are_there() -> None:
    assert MUST_EXIST - set(PAPERS) == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_file_that_a_paper_names_exists(paper: str) -> None:
    places = (ROOT, SOURCE, (ROOT / paper).parent, SOURCE / "conformance")
    lost = {name for name in named_paths(read(paper)) if not any((place / name).exists() for place in places)}
    assert lost == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_module_that_a_paper_names_exists(paper: str) -> None:
    assert {name for name in named_modules(read(paper)) if not module_exists(name)} == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_make_target_that_a_paper_names_exists(paper: str) -> None:
    code = "\n".join(QUOTED.findall(read(paper))) + "\n" + code_blocks(read(paper))
    assert set(TARGET_CALL.findall(code)) - make_targets(read("Makefile")) == set()


def code_blocks(text: str) -> str:
    fenced = "\n".join(re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL))
    return fenced + "\n" + "\n".join(line for line in text.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("paper", [*PAPERS, "Makefile", "pyproject.toml", ".ci/run", "docs/rows.toml"])
def test_no_paper_names_a_path_of_one_machine_or_a_registry(paper: str) -> None:
    text = read(paper)
    assert MACHINE_PATH.findall(text) + REGISTRY.findall(text) == []


def test_pre_commit_runs_the_commands_of_make_lint_in_its_order() -> None:
    assert hook_commands(read(".pre-commit-config.yaml")) == lint_commands(read("Makefile"))


def test_what_is_lost_is_found() -> None:
    text = "`src/dynmem/no_such.py`, `room/`, [a](docs/gone.md), `wire.no_such`, `dynmem.units.MIB`"
    assert named_paths(text) == {"src/dynmem/no_such.py", "room/", "docs/gone.md"}
    assert [name for name in sorted(named_modules(text)) if not module_exists(name)] == [
        "dynmem.wire.no_such"
    ]
    assert TARGET_CALL.findall("make no-such  # make room") == ["no-such"]
    assert MACHINE_PATH.findall("see /home/anna/x") == ["/home/anna"]
    assert MACHINE_PATH.findall("~/.cache/dynmem /run/vm/web.qmp") == []
    assert lint_commands("lint: x\n\t$(BIN)/a .\n\t$(BIN)/b\n\nbench:\n") == [".venv/bin/a .", ".venv/bin/b"]
