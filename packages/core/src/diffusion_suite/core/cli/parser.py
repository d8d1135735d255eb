"""Words of a command line, told apart: inputs, configurations, overrides, options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_suite.core.config import OVERRIDE, kind_at
from diffusion_suite.core.config_schema import setting_names, suggest, without_none
from diffusion_suite.core.errors import ConfigError

_VALUED = {"-c": "config", "--config": "config", "-o": "output", "--output": "output"}
_FLAGS = {"-h": "help", "--help": "help", "--print-config": "print_config", "--debug": "debug"}
_TRUTH = {"true", "false", "yes", "no", "on", "off"}


@dataclass
class Arguments:
    """What the user typed after the command.

    Attributes:
        inputs: Files, folders, globs or manifests.
        configs: Values of ``-c``, in order.
        output: Value of ``-o``, or None.
        overrides: ``key=value`` texts, in order; ``--key value`` is one of them.
        help, print_config, debug: Whether the option was given.
    """

    inputs: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    output: str | None = None
    overrides: list[str] = field(default_factory=list)
    help: bool = False
    print_config: bool = False
    debug: bool = False


def parse(words: Sequence[str], schema: type | None) -> Arguments:
    """Sort the words after ``DOMAIN COMMAND``.

    ``name=value`` is an override unless a file or folder of that very name exists; after ``--`` all are
    inputs.

    Args:
        words: The words.
        schema: Settings that ``--key value`` may name; None skips those (enough to find ``-c``).

    Raises:
        ConfigError: An unknown option, or one without its value.
    """
    arguments = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            arguments.inputs += rest
            break
        if word in _FLAGS:
            setattr(arguments, _FLAGS[word], True)
        elif name in _VALUED and (equals or name == word):
            _take(arguments, _VALUED[name], value if equals else _next(name, rest))
        elif word.startswith("--"):
            if schema is not None:
                arguments.overrides.append(_option(name, value if equals else None, rest, schema))
        elif OVERRIDE.fullmatch(word) and not os.path.exists(word):
            arguments.overrides.append(word)
        elif word.startswith("-") and not os.path.exists(word):
            raise ConfigError(
                f"unknown option '{word}'", "--help lists the options; a file of that name goes after --"
            )
        else:
            arguments.inputs.append(word)
    return arguments


def _take(arguments: Arguments, option: str, value: str) -> None:
    if option == "config":
        arguments.configs.append(value)
    elif arguments.output is not None:
        raise ConfigError("-o is given twice", "give one output")
    else:
        arguments.output = value


def _next(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--") or rest[0] in _VALUED or rest[0] in _FLAGS:
        raise ConfigError(f"option '{option}' has no value", f"give {option} VALUE")
    return rest.pop(0)


def _option(name: str, value: str | None, rest: list[str], schema: type) -> str:
    key = name[2:].replace("-", "_")
    try:
        kind = kind_at(schema, key, f"option '{name}'")
    except ConfigError as error:
        options = [option for option in (*_VALUED, *_FLAGS) if option.startswith("--")]
        known = [*(f"--{setting}" for setting in setting_names(schema)), *options]
        raise ConfigError(f"unknown option '{name}'", suggest(name, known)) from error
    if value is not None:
        return f"{key}={value}"
    if without_none(kind)[0] is bool and not (rest and rest[0].lower() in _TRUTH):
        return f"{key}=true"
    return f"{key}={_next(name, rest)}"
