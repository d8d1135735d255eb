"""``core evaluate``: two sets of pictures or of features in, a table and a JSON file out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path, prepare_output
from diffusion_suite.core.metrics.config import EvaluateConfig
from diffusion_suite.core.progress import say

if TYPE_CHECKING:
    from diffusion_suite.core.metrics.report import Score


def run(request: Request) -> None:
    """Compare the two sets that the request names.

    Raises:
        SuiteError: unusable input, or results that exist already.
    """
    from diffusion_suite.core.metrics.report import Options, Sets, measure
    from diffusion_suite.core.metrics.sources import read_sets

    config: EvaluateConfig = request.config
    if len(request.inputs) != 2:
        raise InputError(
            f"evaluate takes two inputs, REAL and FAKE, not {len(request.inputs)}",
            "name a folder or a file of each; quote a glob",
        )
    output = _output(request.output)
    if output is not None:
        prepare_output([output], config.overwrite)
    names = {"real": request.inputs[0], "fake": request.inputs[1]}
    if any(name in config.metrics for name in ("authpct", "ct")):
        names |= {"train": str(config.train), "test": str(config.test)}
    features, encoder = read_sets(names, config)
    options = Options(
        k=config.k,
        subsets=config.subsets,
        subset_size=config.subset_size,
        order=config.order,
        cells=config.cells,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    scores = measure(Sets(**features), config.metrics, config.encoder_name or encoder, options)
    if output is not None:
        _write(output, scores, names, request)
    _print_table(scores)
    if output is not None:
        say(f"results are in {output}")


def _output(given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    return path if path.suffix.lower() == ".json" else path / "scores.json"


def _write(path: Path, scores: Sequence[Score], names: dict[str, str], request: Request) -> None:
    from diffusion_suite.core.metrics.report import as_json

    record = {
        "scores": as_json(scores),
        "sets": names,
        "config": request.config_name,
        "config_hash": request.config_hash,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _print_table(scores: Sequence[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("metric", "value", "standard error", "items", "note"):
        table.add_column(name, justify="right" if name in ("value", "standard error") else "left")
    for score in scores:
        error = "-" if score.standard_error is None else f"{score.standard_error:.2g}"
        items = ", ".join(f"{count} {name}" for name, count in score.sizes.items())
        table.add_row(score.name, f"{score.value:.5g}", error, items, score.note)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)
