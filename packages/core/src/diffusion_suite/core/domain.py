"""The record by which a domain offers its commands, and how installed domains are found.

A domain is described by import paths alone, so that listing commands and printing help imports nothing heavy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_suite.core.errors import SuiteError

GROUP = "diffusion_suite.domains"
KNOWN = {
    "depth": "monocular depth",
    "medical": "histopathology images and phrase grounding",
    "geo": "hyperspectral restoration",
    "audio": "voice conversion",
    "video": "lip sync",
}


@dataclass(frozen=True)
class Command:
    """One command of a system.

    Attributes:
        help: One line that says what it does.
        schema: ``"module:Class"`` of the dataclass that holds its settings.
        run: ``"module:function"`` called with a :class:`Request`.
        inputs: How the inputs are shown in the usage line; empty when the command takes none.
        examples: Command lines shown at the end of the help.
    """

    help: str
    schema: str
    run: str
    inputs: str = "[INPUT ...]"
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """What a domain package offers; its entry point in the group ``diffusion_suite.domains`` names one.

    Attributes:
        name: The word on the command line.
        help: One line.
        configs: Package that holds the shipped YAML files, e.g. ``"diffusion_suite.geo.configs"``.
        systems: Commands of each system; a shipped YAML picks its system by ``system: name``.
        default: Name of the shipped configuration used when none is asked for.
        demo: ``"module:function"`` of ``demo(folder: Path) -> list[Section]``, or None.
    """

    name: str
    help: str
    configs: str
    systems: Mapping[str, Mapping[str, Command]]
    default: str = "default"
    demo: str | None = None


@dataclass(frozen=True)
class Request:
    """One call of a command.

    Attributes:
        domain: Name of the domain.
        system: Name of the system.
        command: Name of the command.
        inputs: Files, folders, globs or manifests as typed.
        output: The value of ``-o``, or None.
        config: Instance of the command's schema.
        config_hash: 12 hexadecimal digits of the settings that matter for the result.
        config_name: Name or file of the configuration that was chosen.
    """

    domain: str
    system: str
    command: str
    inputs: list[str]
    output: str | None
    config: Any
    config_hash: str
    config_name: str = field(default="default")


def load_object(path: str) -> Any:
    """Import ``"package.module:name"`` and return the object."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def find(name: str) -> Domain | None:
    """Return the installed domain of that name, or None.

    Looks for ``diffusion_suite.<name>.domain`` (works in a checkout with nothing installed), then among
    entry points.

    Raises:
        SuiteError: The domain is there but cannot be imported.
    """
    module = "diffusion_suite.core.commands" if name == "core" else f"diffusion_suite.{name}.domain"
    try:
        present = name.isidentifier() and importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        present = False
    points = {} if present else {p.name: p.value for p in importlib.metadata.entry_points(group=GROUP)}
    if not present and name not in points:
        return None
    try:
        domain = load_object(f"{module}:DOMAIN" if present else points[name])
    except Exception as error:
        raise SuiteError(
            f"the domain '{name}' is installed but cannot be loaded ({type(error).__name__}: {error})",
            f"pip install --force-reinstall 'diffusion-suite[{name}]'",
        ) from error
    if not isinstance(domain, Domain):
        raise SuiteError(f"the entry point of the domain '{name}' is not a Domain record")
    return domain


def installed() -> dict[str, Domain]:
    """Return all domains that can be loaded, known names first; a broken one is left out."""
    names = dict.fromkeys(
        [*KNOWN, "core", *(point.name for point in importlib.metadata.entry_points(group=GROUP))]
    )
    domains: dict[str, Domain] = {}
    for name in names:
        try:
            domain = find(name)
        except SuiteError:
            continue
        if domain is not None:
            domains[name] = domain
    return domains
