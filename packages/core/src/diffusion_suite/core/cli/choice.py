"""Which system and which settings a command runs with: shipped configurations and the user's files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from diffusion_suite.core import yaml_text
from diffusion_suite.core.config import Layer, read_file
from diffusion_suite.core.config_schema import fields_of, setting_names, suggest
from diffusion_suite.core.domain import Command, Domain, load_object
from diffusion_suite.core.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """The text of one configuration and what to call it in an error."""

    where: str
    text: str
    shipped: bool


@dataclass(frozen=True)
class Choice:
    """What ``-c`` picked.

    Attributes:
        system: Name of the system.
        command: Its command.
        schema: The dataclass of the command's settings.
        name: The configuration as the user named it.
        layers: The settings of the configurations, in order.
    """

    system: str
    command: Command
    schema: type
    name: str
    layers: list[Layer]


def shipped(domain: Domain) -> list[str]:
    """Return the names of a domain's shipped configurations, the default first."""
    names = sorted(
        item.name[:-5] for item in resources.files(domain.configs).iterdir() if item.name.endswith(".yaml")
    )
    return sorted(names, key=lambda name: name != domain.default)


def describe(domain: Domain, name: str) -> str:
    """Return the comment in the first line of a shipped configuration."""
    first = _shipped(domain, name).text.partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def choose(domain: Domain, command: str, configs: Sequence[str]) -> Choice:
    """Pick system and settings.

    A shipped configuration stands in the place of the default one; a file is laid over it.

    Raises:
        ConfigError: No such configuration, system, command or section.
    """
    sources = [_source(domain, name) for name in configs]
    systems = {source.where: _system(domain, source) for source in sources}
    named = {where: system for where, system in systems.items() if system}
    if len(set(named.values())) > 1:
        pairs = ", ".join(f"{where} is for '{system}'" for where, system in named.items())
        raise ConfigError(f"the configurations are for different systems: {pairs}", "give one of them")
    system = next(iter(named.values()), None)
    default = _shipped(domain, domain.default)
    if not any(source.shipped for source in sources) and system in (None, _system(domain, default)):
        sources.insert(0, default)
        system = _system(domain, default)
    system = system or next(iter(domain.systems))
    commands = domain.systems[system]
    if command not in commands:
        raise ConfigError(
            f"'{domain.name}' has no command '{command}' for {system}", suggest(command, list(commands))
        )
    schema = load_object(commands[command].schema)
    layers = [layer for source in sources for layer in _layers(source, schema, command, set(commands))]
    return Choice(system, commands[command], schema, configs[-1] if configs else domain.default, layers)


def _source(domain: Domain, name: str) -> Source:
    names = shipped(domain)
    if name in names:
        return _shipped(domain, name)
    if os.path.exists(name) or name.endswith((".yaml", ".yml")) or os.sep in name:
        return Source(f"file {name}", read_file(Path(name)), shipped=False)
    raise ConfigError(f"no configuration '{name}'", f"{suggest(name, names)} a YAML file works too")


def _shipped(domain: Domain, name: str) -> Source:
    text = (resources.files(domain.configs) / f"{name}.yaml").read_text(encoding="utf-8")
    return Source(f"config '{name}'", text, shipped=True)


def _system(domain: Domain, source: Source) -> str | None:
    system = yaml_text.read(source.text, source.where).get("system")
    if system is not None and system not in domain.systems:
        remedy = suggest(str(system), list(domain.systems))
        raise ConfigError(f"{source.where}: '{domain.name}' has no system '{system}'", remedy)
    return system


def _layers(source: Source, schema: type, command: str, commands: set[str]) -> list[Layer]:
    values: dict[str, Any] = yaml_text.read(source.text, source.where, schema, section=command)
    known = fields_of(schema)
    sections = {key: value for key, value in values.items() if key in commands and key not in known}
    for key, value in sections.items():
        if not isinstance(value, dict | None):
            raise ConfigError(
                f"{source.where}: '{key}' is a section", f"write lines of the form key: value below {key}:"
            )
    flat = {key: value for key, value in values.items() if key not in sections and key != "system"}
    unknown = next((key for key in flat if key not in known), None)
    if unknown is not None:
        remedy = suggest(unknown, [*setting_names(schema), *sorted(commands)])
        raise ConfigError(f"{source.where}: no setting or section '{unknown}'", remedy)
    return [Layer(source.where, flat), Layer(source.where, sections.get(command) or {})]
