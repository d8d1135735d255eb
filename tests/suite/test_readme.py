"""What the pages show works: commands parse, Python runs, links lead somewhere, figures were measured."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffusion_suite.core.cli import main
from diffusion_suite.core.cli.parser import parse
from diffusion_suite.core.seeding import numpy_generator

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "packages/*/*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(diffusion-suite [^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

pytestmark = pytest.mark.docs


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [content for kind, content in BLOCK.findall(text) if kind == language]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Each shell line of a page, and each command in its text, as words."""
    for path in PAGES:
        lines = [line for block in blocks(path, "") for line in block.splitlines()]
        lines += INLINE.findall(path.read_text(encoding="utf-8"))
        for line in lines:
            words = shlex.split(line, comments=True)
            if words:
                yield name_of(path), words


COMMANDS = list(command_lines())
SUITE = [(page, words[1:]) for page, words in COMMANDS if words[0] == "diffusion-suite"]
PYTHON = [(path, index) for path in PAGES for index in range(len(blocks(path, "python")))]


def test_pages_show_commands_and_python() -> None:
    assert len(SUITE) > 15
    assert {words[1] for _, words in SUITE if words[0] == "geo"} == {
        "train",
        "predict",
        "evaluate",
        "convert",
        "info",
    }
    assert len(PYTHON) > 8


@pytest.mark.parametrize(("page", "words"), SUITE, ids=lambda value: " ".join(value) if value else "")
def test_command_parses(
    page: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "demo":
        assert not parse(words[1:], None).inputs
        return
    assert main([*words, *([] if "--help" in words else ["--print-config"])]) == 0, capsys.readouterr().err


def test_other_commands_name_what_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page, words in COMMANDS:
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), page
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"{page}: {words[1]}"
        elif words[0] == "pip":
            (extras,) = re.findall(r"\[(.*)\]", words[-1])
            known = set(project["optional-dependencies"]) | {"testing"}
            assert set(extras.split(",")) <= known, page
        else:
            assert words[0] == "diffusion-suite", f"{page}: {words}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize(
    ("path", "index"), PYTHON, ids=lambda value: name_of(value) if value in PAGES else ""
)
def test_python_runs(path: Path, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = numpy_generator("readme")
    cube = rng.random((20, 18, 3)).cumsum(0) @ rng.random((3, 10)) + rng.normal(0, 0.3, (20, 18, 10))
    np.save(tmp_path / "scene.npy", cube.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    source = blocks(path, "python")[index]
    code = compile(source, f"{name_of(path)}, block {index + 1}", "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__"})


def test_tables_show_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    runpy.run_path(str(ROOT / "benchmarks" / "tables.py"), run_name="__main__")
