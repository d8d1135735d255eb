"""The texts of the command line: overview, help of a domain, help of a command."""

from __future__ import annotations

import importlib.metadata
import shutil
import textwrap
from collections.abc import Sequence

from diffusion_suite.core._version import __version__
from diffusion_suite.core.cli.choice import Choice, describe, shipped
from diffusion_suite.core.config import load, table
from diffusion_suite.core.domain import KNOWN, Domain, installed

USAGE = "diffusion-suite DOMAIN COMMAND [INPUT ...] [-c NAME|FILE] [-o OUT] [key=value ...]"


def overview() -> str:
    """Return the domains: those installed, and the line that installs each of the others."""
    domains = installed()
    have = [(name, domain.help) for name, domain in domains.items()]
    lines = [f"diffusion-suite {__version__}: applied diffusion models", "", f"usage: {USAGE}", ""]
    lines += ["installed domains:", *columns(have)] if have else ["no domain is installed yet"]
    lack = [name for name in KNOWN if name not in domains]
    for title, names in (
        ("not installed:", [name for name in lack if is_released(name)]),
        (f"not in {__version__} yet (a later release brings them):", [n for n in lack if not is_released(n)]),
    ):
        rows = [(name, f"{KNOWN[name]}: {how_to_install(name)}") for name in names]
        lines += ["", title, *columns(rows)] if rows else []
    lines += ["", "also:"]
    also = [
        ("diffusion-suite DOMAIN", "the commands and configurations of a domain"),
        ("diffusion-suite DOMAIN COMMAND --help", "every setting of a command"),
        (
            "diffusion-suite demo [-o FOLDER]",
            "run every installed domain on real samples, write a page of results",
        ),
        ("diffusion-suite --version", "the version"),
    ]
    return "\n".join([*lines, *columns(also)])


def how_to_install(name: str) -> str:
    """Return the line that installs a domain."""
    return f"pip install 'diffusion-suite[{name}]'"


def is_released(name: str) -> bool:
    """Whether the installed release knows the domain as an extra; true where nothing tells."""
    try:
        extras = importlib.metadata.metadata("diffusion-suite").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return True
    return name in extras


def of_domain(domain: Domain) -> str:
    """Return the commands and shipped configurations of a domain."""
    commands = {name: command.help for system in domain.systems.values() for name, command in system.items()}
    lines = [f"diffusion-suite {domain.name}: {domain.help}", ""]
    lines += [
        f"usage: {USAGE.replace('DOMAIN', domain.name)}",
        "",
        "commands:",
        *columns(list(commands.items())),
    ]
    lines += ["", f"configurations (-c NAME, default {domain.default}):"]
    lines += columns([(name, describe(domain, name)) for name in shipped(domain)])
    lines += ["", f"diffusion-suite {domain.name} COMMAND --help lists the settings of a command"]
    return "\n".join(lines)


def of_command(domain: Domain, name: str, choice: Choice) -> str:
    """Return the options of a command and the table of its settings under the chosen configuration."""
    command = choice.command
    usage = f"diffusion-suite {domain.name} {name} {command.inputs} [-c NAME|FILE] [-o OUT] [key=value ...]"
    options = [
        ("-c, --config NAME|FILE", f"{', '.join(shipped(domain))}, or a YAML file; may be repeated"),
        ("-o, --output OUT", "where results go"),
        ("--print-config", "print the settings as YAML, which -c takes back, and stop"),
        ("--debug", "show the traceback of an error"),
    ]
    rows = table(choice.schema, load(choice.schema, choice.layers, partial=True))
    lines = [f"usage: {' '.join(usage.split())}", "", command.help, "", "options:", *columns(options), ""]
    lines += [f"settings (key=value, or --key value) under the configuration '{choice.name}':"]
    lines += columns(
        [("key", "type", "default", "")] + [(row.key, row.type, row.default, row.help) for row in rows]
    )
    lines += ["", "examples:", *(f"  {example}" for example in command.examples)] if command.examples else []
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows out in columns, the last one wrapped to the width of the terminal."""
    if not rows:
        return []
    limit = 26
    widths = [max(min(len(row[i]), limit) for row in rows) for i in range(len(rows[0]) - 1)]
    if len(widths) == 1:
        widths = [max(len(row[0]) for row in rows)]
    indent = 2 + sum(width + 2 for width in widths)
    room = max(30, shutil.get_terminal_size((120, 24)).columns - indent)
    lines: list[str] = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
            for cell, width in zip(row, widths, strict=False)
        ]
        cells.append(textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""])
        for i in range(max(map(len, cells))):
            parts = [
                (cell[i] if i < len(cell) else "").ljust(width)
                for cell, width in zip(cells, [*widths, 0], strict=True)
            ]
            lines.append(("  " + "  ".join(parts)).rstrip())
    return lines
