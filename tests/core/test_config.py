"""Settings: layers, types, errors in one line; fuzzed."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_suite.core.config import Layer, config_hash, load, opt, plain, table, to_yaml
from diffusion_suite.core.config_schema import REQUIRED, suggest
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.yaml_text import read


class Colour(enum.Enum):
    red = 1
    blue = 2


@dataclass
class Sampler:
    steps: int = opt(50, "network calls", ge=1)
    betas: list[float] = opt([0.1, 0.2], "ends of the schedule", gt=0, lt=1)

    def check(self) -> None:
        if len(self.betas) != 2:
            raise ConfigError(f"betas has {len(self.betas)} numbers", "give two", key="betas")


@dataclass
class Settings:
    sampler: Sampler = opt(Sampler(), "how to sample")
    name: str = opt("a", "a name")
    out: str | None = opt(None, "a path")
    mode: Literal["on", "off"] = opt("on", "a word that YAML 1.1 takes for a truth value")
    colour: Colour = opt(Colour.red, "a colour")
    size: float | str = opt("auto", "a number or auto")
    words: list[str] = opt(["a"], "a list", choices=["a", "b"])
    files: list[str] = opt([], "names")
    trainer: dict[str, Any] = opt({}, "open", keys=frozenset({"devices", "strategy"}))
    flag: bool = opt(False, "a switch", hashed=False)
    rate: float = opt(0.5, "a rate", gt=0)
    count: int | None = opt(None, "a count")


@dataclass
class Needy:
    path: str = opt(REQUIRED, "must be given")
    number: int = opt(REQUIRED, "must be given too", ge=0)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("name=007", "name", "007"),
        ("name=1_000", "name", "1_000"),
        ("name=1e3", "name", "1e3"),
        ("name=12:30:00", "name", "12:30:00"),
        ("name=on", "name", "on"),
        ("name=a #b", "name", "a #b"),
        ("name=[x].png", "name", "[x].png"),
        ("name=@x", "name", "@x"),
        ("name=*x", "name", "*x"),
        ("name=null", "name", "null"),
        ("name=a=b.png", "name", "a=b.png"),
        ("name=${oc.env:HOME}", "name", "${oc.env:HOME}"),
        ("name=\\${x}", "name", "\\${x}"),
        ("name=", "name", ""),
        ("out=null", "out", None),
        ("out=~", "out", "~"),
        ("mode=off", "mode", "off"),
        ("colour=blue", "colour", Colour.blue),
        ("size=0.1", "size", 0.1),
        ("size=auto", "size", "auto"),
        ("size=${x}", "size", "${x}"),
        ("words=a,b", "words", ["a", "b"]),
        ("words=[b, a]", "words", ["b", "a"]),
        ("files=007,on", "files", ["007", "on"]),
        ("trainer.devices=8", "trainer", {"devices": 8}),
        ("trainer.strategy=fsdp", "trainer", {"strategy": "fsdp"}),
        ("trainer={devices: 2}", "trainer", {"devices": 2}),
        ("flag=yes", "flag", True),
        ("flag=false", "flag", False),
        ("rate=1e-4", "rate", 1e-4),
        ("rate=3", "rate", 3.0),
        ("count=1e3", "count", 1000),
        ("count=010", "count", 10),
        ("count=null", "count", None),
        ("sampler.steps=7", "sampler", Sampler(steps=7)),
        ("sampler={steps: 7}", "sampler", Sampler(steps=7)),
        ("sampler.betas=0.3,0.4", "sampler", Sampler(betas=[0.3, 0.4])),
    ],
)
def test_override_arrives_as_typed(override: str, name: str, value: object) -> None:
    assert getattr(load(Settings, [override]), name) == value


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sampler.step=5", ["no setting 'sampler.step'", "did you mean 'sampler.steps'?"]),
        ("steps=5", ["no setting 'steps'", "did you mean 'sampler.steps'?"]),
        ("sampler.steps=five", ["'sampler.steps' takes int >= 1, not 'five'"]),
        ("sampler.steps=0", ["'sampler.steps' takes int >= 1, not 0"]),
        ("sampler.steps=true", ["takes int >= 1, not True"]),
        ("sampler.steps=null", ["takes int >= 1, not null"]),
        ("sampler=3", ["'sampler' is a group of settings", "sampler.steps"]),
        ("sampler.betas.0=0.5", ["'sampler.betas' holds one value", "sampler.betas=VALUE"]),
        ("sampler.betas=0.5,2", ["list of float > 0 and < 1, not 2"]),
        ("sampler.betas=0.5", ["betas has 1 numbers", "give two"]),
        ("mode=of", ["'mode' takes on | off, not 'of'"]),
        ("colour=green", ["red | blue"]),
        ("words=c", ["cannot be 'c'", "choose from a, b"]),
        ("trainer.devcies=8", ["'trainer.devcies'", "did you mean 'devices'?"]),
        ("trainer=3", ["'trainer' takes mapping, not 3"]),
        ("flag=2", ["true | false, not 2"]),
        ("rate=nan", ["'rate' takes float > 0, not nan"]),
        ("rate=.inf", ["float > 0, not inf"]),
        ("rate=1e999", ["not inf"]),
        ("rate=${rate}", ["not '${rate}'"]),
        ("count=1.5", ["int or null, not 1.5"]),
        ("count=99999999999999999999", ["int or null"]),
        ("words=[", ["not valid YAML"]),
        ("=3", ["not of the form key=value"]),
    ],
)
def test_wrong_override_names_itself_and_the_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Settings, ["count=3", override])
    line = str(caught.value)
    assert line.startswith(f"override '{override}'")
    assert all(part in line for part in parts), line
    assert "\n" not in line


def test_later_layers_win_and_are_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("rate: 0.25\nsampler:\n  steps: 9\nname: 007\nmode: off\ntrainer: {devices: 2}\n")
    shipped = Layer("config 'x'", {"rate": 0.75, "count": 4, "trainer": {"strategy": "ddp"}})
    config = load(Settings, [shipped, mine, "rate=0.125"])
    assert (config.rate, config.count, config.sampler.steps) == (0.125, 4, 9)
    assert (config.name, config.mode) == ("007", "off")
    assert config.trainer == {"strategy": "ddp", "devices": 2}
    mine.write_text("rate: -1\n")
    with pytest.raises(ConfigError, match=r"file .*mine\.yaml: 'rate' takes float > 0, not -1"):
        load(Settings, [shipped, mine])
    mine.write_text("sampler:\n  betas: [0.5]\n")
    with pytest.raises(ConfigError, match=r"file .*mine\.yaml: betas has 1 numbers; give two"):
        load(Settings, [mine, "rate=1"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rate: 1\nrate: 2\n", "'rate' is given twice"),
        ("- 1\n", "not a mapping"),
        ("a: [1\nb: 2\n", "not valid YAML in line 2"),
        ("1: 2\n", "not a mapping"),
        ("rate: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("rate: ${count}\n", "'rate'"),
        ("rate: ${nothing}\n", "'rate' cannot be resolved"),
        ("trainer: &t {devices: *t}\n", "trainer"),
        ("\x00", "not valid YAML"),
    ],
)
def test_broken_file_is_one_line(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Settings, [path])
    assert part in str(caught.value), str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(ConfigError, match="YAML file"):
            load(Settings, [path])


def test_interpolation_works_in_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rate: 0.25\nsize: ${rate}\n")
    assert load(Settings, [path]).size == 0.25


def test_missing_settings_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"no value for 'path', 'number'; give path=VALUE number=VALUE"):
        load(Needy)
    assert load(Needy, partial=True).path == REQUIRED
    assert load(Needy, ["path=x", "number=3"]) == Needy("x", 3)


def test_hash_sees_what_matters() -> None:
    base = config_hash(load(Settings))
    assert len(base) == 12
    assert base == config_hash(load(Settings, ["flag=true"]))
    assert base != config_hash(load(Settings, ["sampler.steps=51"]))
    assert base == config_hash(load(Settings, ["sampler.steps=50"]))


def test_table_shows_the_chosen_defaults() -> None:
    rows = {row.key: row for row in table(Settings, load(Settings, ["sampler.steps=7", "out=x"]))}
    assert rows["sampler.steps"].default == "7"
    assert rows["sampler.steps"].type == "int >= 1"
    assert rows["sampler.steps"].help == "network calls"
    assert rows["out"].default == "x"
    assert rows["out"].type == "text or null"
    assert rows["flag"].default == "false"
    assert {row.default for row in table(Needy)} == {"required"}


def test_suggestions_prefer_the_nearest() -> None:
    known = ["sampler.steps", "sampler.betas", "learning_rate", "seed"]
    assert suggest("Learning-Rate", known) == "did you mean 'learning_rate'?"
    assert suggest("sed", known) == "did you mean 'seed'?"
    assert suggest("zzz", known).startswith("choose from sampler.steps")


def test_yaml_keeps_numbers_that_yaml_1_1_does_not() -> None:
    assert read("a: 1e-4\nb: 010\nc: 12:30\nd: 2026-11-20\ne: yes\nf: 0x10\ng: .5\nh: -.inf\n", "x") == {
        "a": 1e-4, "b": 10, "c": "12:30", "d": "2026-11-20", "e": "yes", "f": 16, "g": 0.5, "h": -math.inf
    }  # fmt: skip


keys = st.sampled_from([row.key for row in table(Settings)] + ["sampler", "trainer.devices", "smapler.steps"])
scalars = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="[]{}:,#&*!|>'\"%@`-?~ \n\t0123456789.eE_xo${}\\abc", max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["null", "true", "off", "auto", "a", "b", "[a]", "{devices: 1}", "[[[[", "${", "${name}"]
    ),
)


@given(st.lists(st.tuples(st.one_of(keys, st.text(max_size=8)), scalars), max_size=4))
def test_fuzz_overrides(pairs: list[tuple[str, str]]) -> None:
    try:
        config = load(Settings, [f"{key}={value}" for key, value in pairs])
    except ConfigError as error:
        assert "\n" not in str(error)
        assert str(error)
    else:
        reloaded = load(Settings, [Layer("again", read(to_yaml(config), "again", Settings))])
        assert plain(reloaded) == plain(config)
        assert config_hash(reloaded) == config_hash(config)


@given(st.one_of(st.text(), st.text(alphabet="abcdeimnrstuo:-[]{},#&*!|>'\"%@?~ \n\t01.${}<", max_size=60)))
@example("rate: !!float x\n")
@example("? [a]\n: b\n")
@example("&a [*a]")
@example("<<: 3\n")
@example("<<: {rate: 2}\n")
@example("[" * 3000)
def test_fuzz_files(text: str) -> None:
    try:
        load(Settings, [Layer("file x", read(text, "file x", Settings))])
    except ConfigError as error:
        assert str(error).startswith("file x: ")
        assert "\n" not in str(error)


@given(st.text())
@example("\\")
@example("\x85")
@example("a\u2028 b\n c")
@example("\\\\${a}")
@example("${")
def test_fuzz_text_is_verbatim(text: str) -> None:
    config = load(Settings, [f"name={text}"])
    assert config.name == text
    again = load(Settings, [Layer("again", read(to_yaml(config), "again", Settings))])
    assert again.name == text
