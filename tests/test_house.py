"""The laws of the house that no linter knows.

Import directions are import-linter's (`make check`); here is what can be seen in the files themselves: names, lengths,
docstrings, what lies at the top, and that what the README and the jobs say of themselves is so.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "geobatch").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

TOP = {"pyproject.toml", "geobatch", "jobs", "cluster.yaml", "tests", "README.md", "Makefile", "LICENSE"}

#: Names that say nothing of what lies behind them.
NAMELESS = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "core"}

#: The one module that prints for people.
PRINTS = {"geobatch/progress.py"}

LINES, FUNCTION_LINES = 300, 60

#: What is longer all the same, and how long it may be. An entry that is no longer needed must go: the list only shrinks.
LONGER: dict[str, int] = {}

#: Folders of tests that are not about one room.
NO_ROOM = {"bench", "river", "golden", "gpu", "archives"}


def name(path: Path) -> str:
    """The path from the root, with slashes."""
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def test_nothing_is_nameless() -> None:
    nameless = {name(path) for path in (*PACKAGE, *JOBS, *TESTS) if NAMELESS & {*path.relative_to(ROOT).parts, path.stem}}
    assert not nameless


def test_files_and_functions_stay_short() -> None:
    long: dict[str, int] = {}
    for path in (*PACKAGE, *JOBS):
        lines = len(path.read_text().splitlines())
        if lines > LINES:
            long[name(path)] = lines
        for function in functions(parsed(path)):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES:
                long[f"{name(path)}:{function.name}"] = lines
    grown = {what: lines for what, lines in long.items() if lines > LONGER.get(what, 0)}
    assert not grown, f"at most {LINES} lines a file and {FUNCTION_LINES} a function: split these"
    assert not LONGER.keys() - long.keys(), "these became short: take them off the list"


def test_nothing_prints_but_the_progress() -> None:
    printing = {
        f"{name(path)}:{node.lineno}"
        for path in PACKAGE
        if name(path) not in PRINTS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert not printing


def test_the_top_holds_what_the_plan_says() -> None:
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    made = {"__pycache__", *(entry for entry in entries if entry.endswith(".egg-info"))}
    assert not entries - TOP - made
    assert entries >= TOP


def test_every_module_says_what_it_is() -> None:
    silent = {name(path) for path in (*PACKAGE, *JOBS) if len(ast.get_docstring(parsed(path)) or "") < 20}
    assert not silent


def test_tests_lie_where_their_room_lies() -> None:
    rooms = {path.parent.relative_to(ROOT / "tests") for path in TESTS if path.name.startswith("test_")}
    homeless = {
        str(room)
        for room in rooms
        if room.parts[:1] and room.parts[0] not in NO_ROOM and not (ROOT / "geobatch" / room).is_dir()
    }
    homeless -= {str(room) for room in rooms if (ROOT / "geobatch" / room).with_suffix(".py").is_file()}
    assert not homeless


# The jobs

HELP = """
import runpy, sys
for job in sys.argv[1:]:
    sys.argv = [job, "--help"]
    try:
        runpy.run_path(job, run_name="__main__")
    except SystemExit as end:
        print("@@@", job, end.code, flush=True)
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each job says to `--help`; one process for all, since importing takes longer than talking."""
    jobs = [name(path) for path in JOBS]
    ran = subprocess.run(
        [sys.executable, "-c", HELP, *jobs], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    parts = re.split(r"^@@@ (\S+) (\S+)\n", ran.stdout, flags=re.MULTILINE)
    ended = dict(zip(parts[1::3], parts[2::3], strict=True))
    assert ended == dict.fromkeys(jobs, "0"), ran.stderr[-2000:]
    return dict(zip(parts[1::3], parts[::3], strict=False))


@pytest.mark.parametrize("job", [name(path) for path in JOBS])
def test_every_flag_of_a_job_is_explained(job: str, helps: dict[str, str]) -> None:
    """A sentence ends with a full stop, and then comes what the flag is by default."""
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", helps[job]).split())
    ends = re.findall(r"(--[\w.-]+)(?:(?!--).)*?(\S+) \((?:default: |required\))", words)
    assert ends
    assert not [flag for flag, end in ends if not end.endswith(".")]


def commands(text: str) -> Iterator[tuple[str, set[str]]]:
    """The jobs a text would run, and with which flags; a command goes on over a backslash or a deeper indent."""
    joined = re.sub(r"\\*\n\s+(?=--)", " ", text)
    for line in joined.splitlines():
        if found := re.search(r"python (jobs/\w+\.py)(.*)", line):
            yield found[1], set(re.findall(r"(?<!\S)--[\w.-]+", found[2]))


@pytest.mark.parametrize("job", [name(path) for path in JOBS])
def test_a_job_names_the_exact_command_that_runs_it(job: str, helps: dict[str, str]) -> None:
    docstring = ast.get_docstring(parsed(ROOT / job)) or ""
    own = [flags for other, flags in commands(docstring) if other == job]
    assert own, f"its docstring needs the command: python {job} …"
    for flags in own:
        assert flags <= set(re.findall(r"--[\w.-]+", helps[job]))


def test_the_readme_runs_jobs_that_exist_with_flags_they_have(helps: dict[str, str]) -> None:
    for job, flags in commands((ROOT / "README.md").read_text()):
        assert job in helps, f"the README runs {job}, which is not there"
        assert flags <= set(re.findall(r"--[\w.-]+", helps[job])), job


# The README's tree


def tree_of(readme: str) -> set[str]:
    """The paths of the fenced block whose first line is `geobatch/`.

    Two spaces a level, a name (of a folder with its slash), and after at least two spaces any words.
    """
    block = re.search(r"^```\w*\n(geobatch/.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block, "the README needs a fenced block whose first line is geobatch/"
    stack: list[str] = []
    paths = set()
    for line in block[1].splitlines():
        entry = re.fullmatch(r"((?:  )*)(\S+)(?:  .*)?", line)
        assert entry, f"neither a name nor a name and words: {line!r}"
        stack[len(entry[1]) // 2 :] = [entry[2]]
        paths.add("".join(stack))
    return paths


def on_disk() -> set[str]:
    """Every module and room; a room is its `__init__.py`."""
    files = {name(path) for path in PACKAGE if path.name != "__init__.py"}
    return files | {name(path.parent) + "/" for path in PACKAGE if path.name == "__init__.py"}


def test_the_readmes_tree_is_the_disk() -> None:
    readme = (ROOT / "README.md").read_text()
    drawn, there = tree_of(readme), on_disk()
    assert not drawn - there, "drawn, and not there"
    assert not there - drawn, "there, and not drawn"


def test_a_tree_is_read_as_it_is_drawn() -> None:
    lines = [
        "geobatch/",
        "  errors.py     what can go wrong",
        "  geo/  the Earth",
        "    s2.py",
        "  image/",
        "    exif.py   where",
    ]
    drawn = "\n".join(["```", *lines, "```", ""])
    assert tree_of(drawn) == {
        "geobatch/",
        "geobatch/errors.py",
        "geobatch/geo/",
        "geobatch/geo/s2.py",
        "geobatch/image/",
        "geobatch/image/exif.py",
    }
