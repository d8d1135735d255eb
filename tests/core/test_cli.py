"""The command line, on a domain made for the test and found through its entry point."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest

from diffusion_suite.core import __version__
from diffusion_suite.core.cli import main
from diffusion_suite.core.cli.parser import parse
from diffusion_suite.core.domain import GROUP
from diffusion_suite.core.errors import ConfigError

MODULE = """
import errno
from dataclasses import dataclass
from typing import Any
from diffusion_suite.core.config import opt
from diffusion_suite.core.domain import Command, Domain
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.gallery import Picture, Section

@dataclass
class Predict:
    steps: int = opt(50, "network calls", ge=1)
    title: str | None = opt(None, "words on the picture")
    overwrite: bool = opt(False, "replace outputs", hashed=False)
    trainer: dict[str, Any] = opt({}, "open")

@dataclass
class Train:
    rate: float = opt(1e-3, "learning rate", gt=0)

REQUESTS = []
FAILURE = []

def run(request):
    REQUESTS.append(request)
    if FAILURE:
        raise FAILURE[0]

def demo(folder):
    if FAILURE:
        raise FAILURE[0]
    picture = folder / "before & after.png"
    picture.write_bytes(b"\\x89PNG" + bytes(12) + (300).to_bytes(4, "big") + (100).to_bytes(4, "big"))
    rows = [{"method": "ours <b>", "PSNR": 31.234567}, {"method": "theirs", "SAM": 2}]
    return [Section("A <section>", "First.\\n\\nSecond.", rows, [Picture(picture, "Before & after")])]

EXAMPLES = ("diffusion-suite toy predict a.png",)
P = Command("draw", "toydomain.main:Predict", "toydomain.main:run", examples=EXAMPLES)
T = Command("learn", "toydomain.main:Train", "toydomain.main:run", inputs="")
SYSTEMS = {"one": {"predict": P, "train": T}, "two": {"predict": P}}
DOMAIN = Domain("toy", "toys", "toydomain.configs", SYSTEMS, demo="toydomain.main:demo")
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A domain with two systems; returns its module."""
    configs = tmp_path / "site/toydomain/configs"
    configs.mkdir(parents=True)
    (configs.parent / "__init__.py").write_text("")
    (configs / "__init__.py").write_text("")
    (configs.parent / "main.py").write_text(MODULE)
    (configs / "default.yaml").write_text("# The usual.\nsystem: one\npredict:\n  steps: 20\n")
    (configs / "fast.yaml").write_text("# In a hurry.\nsteps: 4\n")
    (configs / "other.yaml").write_text("system: two\nsteps: 8\npredict: {title: 007}\n")
    real = importlib.metadata.entry_points
    point = importlib.metadata.EntryPoint("toy", "toydomain.main:DOMAIN", GROUP)
    fake = lambda **what: [*real(**what), point] if what.get("group") == GROUP else real(**what)  # noqa: E731
    monkeypatch.setattr(importlib.metadata, "entry_points", fake)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    yield __import__("toydomain.main", fromlist=["main"])
    for name in [name for name in sys.modules if name.startswith("toydomain")]:
        del sys.modules[name]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_overview_lists_installed_and_missing(toy, capsys) -> None:
    code, out, err = call(capsys)
    assert (code, err) == (0, "")
    assert "toy" in out
    assert "pip install 'diffusion-suite[video]'" in out
    assert call(capsys, "--version")[1] == f"diffusion-suite {__version__}\n"


@pytest.mark.parametrize(
    ("extras", "part"), [(["geo", "video"], "is not installed; pip"), (["geo"], "is not in")]
)
def test_missing_domains_of_this_release_and_of_later_ones(toy, capsys, monkeypatch, extras, part) -> None:
    facts = Message()
    for extra in extras:
        facts["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: facts)
    code, out, _ = call(capsys)
    assert code == 0
    assert ("a later release" in out.partition("video")[0]) == ("video" not in extras)
    code, _, err = call(capsys, "video", "predict")
    assert code == 2
    assert part in err
    assert "pip install 'diffusion-suite[video]'" in err


def test_domain_help_lists_commands_and_configs(toy, capsys) -> None:
    code, out, _ = call(capsys, "toy")
    assert code == 0
    assert all(
        part in out for part in ("predict", "draw", "learn", "default", "The usual.", "fast", "In a hurry.")
    )


def test_command_help_shows_defaults_under_the_config(toy, capsys) -> None:
    code, out, _ = call(capsys, "toy", "predict", "--help")
    assert code == 0
    assert ["steps", "int", ">=", "1", "20"] in [line.split()[:5] for line in out.splitlines()]
    assert "diffusion-suite toy predict a.png" in out
    _, out, _ = call(capsys, "toy", "predict", "-h", "-c", "fast")
    assert ["steps", "int", ">=", "1", "4"] in [line.split()[:5] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["tyo", "predict"], ["no domain 'tyo'", "did you mean 'toy'?", "geo"]),
        (["--hlep"], ["no option '--hlep'"]),
        (["video", "predict"], ["'video' is not ", "pip install 'diffusion-suite[video]'"]),
        (["toy", "predcit"], ["no command 'predcit'", "did you mean 'predict'?"]),
        (["toy", "train", "-c", "other"], ["no command 'train' for two"]),
        (["toy", "predict", "-c", "fats"], ["no configuration 'fats'", "did you mean 'fast'?"]),
        (["toy", "predict", "-c", "x/y.yaml"], ["file x/y.yaml", "No such file"]),
        (["toy", "predict", "-c", "default", "-c", "other"], ["different systems"]),
        (["toy", "predict", "--stpes", "3"], ["unknown option '--stpes'", "did you mean '--steps'?"]),
        (["toy", "predict", "--steps"], ["'--steps' has no value"]),
        (["toy", "predict", "-c"], ["'-c' has no value"]),
        (["toy", "predict", "-x"], ["unknown option '-x'"]),
        (["toy", "predict", "-o", "a", "-o", "b"], ["-o is given twice"]),
        (["toy", "predict", "stesp=3"], ["override 'stesp=3'", "did you mean 'steps'?"]),
        (["toy", "train", "picture.png"], ["takes no input", "picture.png"]),
        (["demo", "geo"], ["demo takes no 'geo'"]),
        (["demo", "--fast"], ["demo takes no '--fast'"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(toy, capsys, words, parts) -> None:
    code, out, err = call(capsys, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert toy.REQUESTS == []


def test_request_carries_everything(toy, capsys, tmp_path: Path) -> None:
    (tmp_path / "steps=9").write_text("a file with an awkward name")
    words = [
        "a.png",
        "steps=9",
        "title=steps=3",
        "--overwrite",
        "b.png",
        "-o",
        "out",
        "--trainer.devices",
        "2",
    ]
    assert call(capsys, "toy", "predict", *words, "-c", "fast", "--", "title=x") == (0, "", "")
    (request,) = toy.REQUESTS
    assert request.inputs == ["a.png", "steps=9", "b.png", "title=x"]
    assert (request.domain, request.system, request.command) == ("toy", "one", "predict")
    assert (request.output, request.config_name) == ("out", "fast")
    assert request.config == toy.Predict(4, "steps=3", True, {"devices": 2})
    assert len(request.config_hash) == 12


def test_configs_pick_system_and_sections(toy, capsys, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("predict: {title: on}\ntrain: {rate: 0.5}\n")
    call(capsys, "toy", "predict", "-c", "other")
    call(capsys, "toy", "predict", "-c", "mine.yaml")
    call(capsys, "toy", "train", "-c", "mine.yaml")
    other, mine, train = toy.REQUESTS
    assert (other.system, other.config.steps, other.config.title) == ("two", 8, "007")
    assert (mine.system, mine.config.steps, mine.config.title) == ("one", 20, "on")
    assert train.config.rate == 0.5
    (tmp_path / "mine.yaml").write_text("predcit: {title: on}\n")
    assert "did you mean" in call(capsys, "toy", "predict", "-c", "mine.yaml")[2]
    (tmp_path / "mine.yaml").write_text("system: three\n")
    assert "no system 'three'" in call(capsys, "toy", "predict", "-c", "mine.yaml")[2]
    (tmp_path / "mine.yaml").write_text("predict: 3\n")
    assert "'predict' is a section" in call(capsys, "toy", "predict", "-c", "mine.yaml")[2]


def test_print_config_loads_again(toy, capsys, tmp_path: Path) -> None:
    code, out, err = call(
        capsys, "toy", "predict", "-c", "other", "title=${x} #1", "steps=3", "--print-config"
    )
    assert (code, err, toy.REQUESTS) == (0, "", [])
    (tmp_path / "printed.yaml").write_text(out)
    call(capsys, "toy", "predict", "-c", "other", "title=${x} #1", "steps=3")
    call(capsys, "toy", "predict", "-c", "printed.yaml")
    first, second = toy.REQUESTS
    assert first.config == second.config
    assert (first.system, first.config_hash) == (second.system, second.config_hash)


@pytest.mark.parametrize(
    ("failure", "code", "part"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out.tif"),
            2,
            "out.tif: No space left on device; free",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "out: Permission denied; change"),
        (MemoryError(), 2, "out of memory"),
        (ModuleNotFoundError("no", name="tensorly.x"), 2, "pip install 'tensorly'"),
        (KeyError("x\ny"), 1, "internal error (KeyError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_of_a_command(toy, capsys, failure, code, part) -> None:
    toy.FAILURE.append(failure)
    got, out, err = call(capsys, "toy", "predict")
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert part in err
    got, _, err = call(capsys, "toy", "predict", "--debug")
    assert got == code
    assert "Traceback" in err


def test_control_characters_are_escaped(toy, capsys) -> None:
    code, _, err = call(capsys, "toy", "predict", "steps=\x1b[31m\r\nred")
    assert code == 2
    assert err.count("\n") == 1
    assert err.strip().isprintable()


def test_demo_writes_a_page(toy, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("diffusion_suite.core.cli.demo.installed", lambda: {"toy": toy.DOMAIN})
    code, out, err = call(capsys, "demo", "-o", "show")
    page = (tmp_path / "show/index.html").read_text()
    assert code == 0
    assert str(tmp_path / "show/index.html") in out
    assert "A &lt;section&gt;" in page
    assert "ours &lt;b&gt;" in page
    assert "31.23" in page
    assert 'src="toy/before%20%26%20after.png"' in page
    assert '<figure class="wide">' in page
    assert "<figcaption>Before &amp; after</figcaption>" in page
    assert "http" not in page
    toy.FAILURE.append(ModuleNotFoundError("no", name="tensorly"))
    code, out, err = call(capsys, "demo", "-o", "show")
    assert code == 1
    assert "the demo of 'toy' failed" in err
    assert "pip install 'tensorly'" in err
    assert "failed" in (tmp_path / "show/index.html").read_text()


def test_demo_needs_a_folder_it_can_write(toy, capsys, tmp_path: Path) -> None:
    (tmp_path / "show").write_text("a file")
    code, _, err = call(capsys, "demo", "-o", "show")
    assert code == 2
    assert "choose another folder with -o" in err


def test_a_broken_domain_says_why(toy, capsys, tmp_path: Path) -> None:
    del sys.modules["toydomain.main"]
    (tmp_path / "site/toydomain/main.py").write_text("import nothing_of_that_name\n")
    code, _, err = call(capsys, "toy", "predict")
    assert code == 2
    assert "nothing_of_that_name" in err
    assert call(capsys)[0] == 0


def test_parse_knows_switches_from_values(toy) -> None:
    schema = toy.Predict
    assert parse(["--overwrite", "a.tif"], schema).inputs == ["a.tif"]
    assert parse(["--overwrite", "false", "a.tif"], schema).overrides == ["overwrite=false"]
    assert parse(["--steps", "-1"], schema).overrides == ["steps=-1"]
    assert parse(["--title=--x"], schema).overrides == ["title=--x"]
    with pytest.raises(ConfigError):
        parse(["--title", "--steps", "3"], schema)


def test_closed_pipe_is_silent() -> None:
    command = f"{sys.executable} -m diffusion_suite.core.cli | true"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stderr == ""
