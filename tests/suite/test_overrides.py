"""Whatever is typed after a command: exit 0, or one line and exit 2."""

from __future__ import annotations

import contextlib
import io
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_suite.core.cli import main
from diffusion_suite.core.cli.choice import choose, shipped
from diffusion_suite.core.config import load, table
from diffusion_suite.core.domain import Domain, installed, load_object

DOMAINS = list(installed().values())
COMMANDS = [
    (domain, system, name)
    for domain in DOMAINS
    for system, commands in domain.systems.items()
    for name in commands
]
KEYS = {
    (domain.name, name): [row.key for row in table(load_object(domain.systems[system][name].schema))]
    for domain, system, name in COMMANDS
}

texts = st.text(max_size=12)
values = st.one_of(
    texts,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["null", "true", "auto", "default", "paper", "[]", "[1, 2]", "{a: 1}", "${seed}", "1e-3", "0.5"]
    ),
)


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    domain, _, name = draw(st.sampled_from(COMMANDS))
    keys = st.one_of(st.sampled_from(KEYS[domain.name, name]), texts)
    words: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        key, value = draw(keys), draw(values)
        words += draw(
            st.sampled_from([[f"{key}={value}"], [f"--{key}", value], [f"--{key}={value}"], [value]])
        )
    return [domain.name, name, "--print-config", *words]


def test_there_are_commands() -> None:
    assert COMMANDS


@given(commands())
def test_random_words_give_a_config_or_one_line(words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    if code == 0:
        assert err.getvalue() == ""
        assert out.getvalue()
    else:
        assert code == 2, err.getvalue()
        assert out.getvalue() == ""
        assert err.getvalue().startswith("error: ")
        assert err.getvalue().count("\n") == 1


@pytest.mark.parametrize(("domain", "system", "name"), COMMANDS, ids=lambda item: getattr(item, "name", item))
def test_every_shipped_config_loads_and_prints_back(
    domain: Domain, system: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in shipped(domain):
        chosen = choose(domain, name, [config])
        if chosen.system != system:
            continue
        loaded = load(chosen.schema, chosen.layers)
        assert main([domain.name, name, "-c", config, "--print-config"]) == 0
        mine = tmp_path / f"{config}.yaml"
        mine.write_text(capsys.readouterr().out)
        again = choose(domain, name, [str(mine)])
        assert again.system == system
        assert load(again.schema, again.layers) == loaded


@pytest.mark.parametrize(("domain", "system", "name"), COMMANDS, ids=lambda item: getattr(item, "name", item))
def test_every_setting_has_its_help(domain: Domain, system: str, name: str) -> None:
    command = domain.systems[system][name]
    assert command.help
    assert all(row.help and row.type for row in table(load_object(command.schema)))


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_shipped_config_says_what_it_is(domain: Domain) -> None:
    for config in shipped(domain):
        first = (resources.files(domain.configs) / f"{config}.yaml").read_text().splitlines()[0]
        assert first.startswith("# ")
