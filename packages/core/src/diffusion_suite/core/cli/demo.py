"""``diffusion-suite demo``: every installed domain on real samples, one page of results."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from diffusion_suite.core.cli.main import explain, say
from diffusion_suite.core.cli.parser import parse
from diffusion_suite.core.domain import Domain, installed, load_object
from diffusion_suite.core.errors import ConfigError, OutputError, SuiteError
from diffusion_suite.core.gallery import Section, write_page

HELP = """usage: diffusion-suite demo [-o FOLDER]

Run every installed domain on real samples and write FOLDER/index.html (default: demo).
The samples come from ordinary packages: pip install 'diffusion-suite[samples]'"""


def run_demos(words: Sequence[str]) -> int:
    """Run the demo of each installed domain; return 0, or 1 if one failed (the others go on).

    Raises:
        SuiteError: A wrong option, a folder that cannot be written, or no domain to show.
    """
    arguments = parse(words, None)
    if arguments.help:
        print(HELP)
        return 0
    wrong = [
        *arguments.inputs,
        *arguments.overrides,
        *arguments.configs,
        *(w for w in words if w.startswith("--")),
    ]
    wrong = [word for word in wrong if word.partition("=")[0] not in ("--output", "--debug")]
    if wrong:
        raise ConfigError(f"demo takes no '{wrong[0]}'", "usage: diffusion-suite demo [-o FOLDER]")
    domains = {name: domain for name, domain in installed().items() if domain.demo}
    if not domains:
        raise SuiteError("no installed domain has a demo", "pip install 'diffusion-suite[geo]'")
    folder = Path(arguments.output or "demo")
    sections: list[Section] = []
    for domain in domains.values():
        sections += _run(domain, folder, arguments.debug)
    page = write_page(
        folder, "diffusion-suite demo", sections, "Made on this machine, from real samples, a moment ago."
    )
    print(f"open {page.resolve()}")
    return int(any(section.failed for section in sections))


def _run(domain: Domain, folder: Path, debug: bool) -> list[Section]:
    place = folder / domain.name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be made ({error.strerror})", "choose another folder with -o"
        ) from error
    print(f"{domain.name}: {domain.help} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        sections: list[Section] = load_object(str(domain.demo))(place)
    except Exception as error:
        if debug:
            traceback.print_exc()
        line, _ = explain(error)
        say(f"error: the demo of '{domain.name}' failed: {line}")
        return [Section(f"{domain.name}: failed", line, failed=True)]
    print(f"{domain.name}: done in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return sections
