"""Entry of the command line: find domain and command, fill the settings, run, turn errors into one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from diffusion_suite.core import domain as domains
from diffusion_suite.core._version import __version__
from diffusion_suite.core.cli import choice, help
from diffusion_suite.core.cli.parser import Arguments, parse
from diffusion_suite.core.config import config_hash, load, to_yaml
from diffusion_suite.core.config_schema import suggest
from diffusion_suite.core.domain import KNOWN, Domain, Request, load_object
from diffusion_suite.core.errors import ConfigError, SuiteError

MENDABLE, BUG, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 is success; 2 is anything that the user can mend, told in one line on standard error; 1 is a bug of
    ours, or a demo that failed; 130 an interruption. ``--debug`` adds the traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait make torch many times slower on a machine that other work shares.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        line, code = explain(error)
        say(f"error: {line}")
        return code


def explain(error: BaseException) -> tuple[str, int]:
    """Return the one line that tells an error, and the exit code."""
    name = type(error).__name__
    if isinstance(error, SuiteError):
        return str(error), MENDABLE
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command again goes on from what is finished", INTERRUPTED
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "out of memory; use smaller windows or batches, or another device", MENDABLE
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("diffusion_suite"):
        return (
            f"the package '{error.name}' is missing; pip install '{error.name.partition('.')[0]}'",
            MENDABLE,
        )
    if isinstance(error, OSError) and error.errno is not None:
        remedies = {
            errno.ENOSPC: "free some space or choose another output with -o",
            errno.EDQUOT: "free some space or choose another output with -o",
            errno.EACCES: "change its permissions or choose another place with -o",
            errno.EPERM: "change its permissions or choose another place with -o",
            errno.EROFS: "choose another place with -o",
            errno.ENOENT: "check the path",
        }
        place = f"{error.filename}: " if error.filename else ""
        return str(
            SuiteError(f"{place}{error.strerror}", remedies.get(error.errno, "check the path and the disk"))
        ), MENDABLE
    return (
        f"internal error ({name}: {' '.join(str(error).split())[:300]}); report it with what --debug shows",
        BUG,
    )


def say(line: str) -> None:
    """Print one line on standard error (of several ranks the first alone), control characters escaped."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr, flush=True)


def _dispatch(words: list[str]) -> int:
    while words and words[0] == "--debug":
        words = words[1:]
    first = words[0] if words else "--help"
    if first in ("-h", "--help", "help"):
        print(help.overview())
        return 0
    if first == "--version":
        print(f"diffusion-suite {__version__}")
        return 0
    if first == "demo":
        from diffusion_suite.core.cli.demo import run_demos

        return run_demos(words[1:])
    domain = _domain(first)
    if len(words) == 1 or words[1] in ("-h", "--help"):
        print(help.of_domain(domain))
        return 0
    return _command(domain, words[1], words[2:])


def _domain(name: str) -> Domain:
    domain = domains.find(name)
    if domain is not None:
        return domain
    if name in KNOWN:
        if help.is_released(name):
            raise SuiteError(f"the domain '{name}' is not installed", help.how_to_install(name))
        remedy = f"once a later release brings it: {help.how_to_install(name)}"
        raise SuiteError(f"the domain '{name}' is not in {__version__} yet", remedy)
    names = list(dict.fromkeys([*domains.installed(), *KNOWN, "demo"]))
    kind = "option" if name.startswith("-") else "domain"
    raise ConfigError(f"no {kind} '{name}'", f"{suggest(name, names)} (domains: {', '.join(names[:-1])})")


def _command(domain: Domain, name: str, words: list[str]) -> int:
    known = list(dict.fromkeys(command for system in domain.systems.values() for command in system))
    if name not in known:
        raise ConfigError(
            f"'{domain.name}' has no command '{name}'",
            f"{suggest(name, known)} (commands: {', '.join(known)})",
        )
    chosen = choice.choose(domain, name, parse(words, None).configs)
    arguments: Arguments = parse(words, chosen.schema)
    if arguments.help:
        print(help.of_command(domain, name, chosen))
        return 0
    config: Any = load(chosen.schema, [*chosen.layers, *arguments.overrides], partial=arguments.print_config)
    if arguments.print_config:
        print(f"# diffusion-suite {domain.name} {name}\nsystem: {chosen.system}\n{to_yaml(config)}", end="")
        return 0
    if arguments.inputs and not chosen.command.inputs:
        raise ConfigError(
            f"'{name}' takes no input, but got '{arguments.inputs[0]}'", "settings are given as key=value"
        )
    request = Request(
        domain=domain.name,
        system=chosen.system,
        command=name,
        inputs=arguments.inputs,
        output=arguments.output,
        config=config,
        config_hash=config_hash(config),
        config_name=chosen.name,
    )
    load_object(chosen.command.run)(request)
    return 0
