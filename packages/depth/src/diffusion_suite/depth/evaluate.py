"""``depth evaluate``: predicted against true depth, a table, scores.json and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path, prepare_output
from diffusion_suite.core.progress import say, track
from diffusion_suite.depth.config import EvaluateConfig
from diffusion_suite.depth.measure import Case, Guess, Row, measured, ramp
from diffusion_suite.depth.metrics import LABELS, Metrics
from diffusion_suite.depth.pairs import Pair
from diffusion_suite.depth.sources import cases, network_guess, protocol_of, stored_guess

if TYPE_CHECKING:
    from diffusion_suite.depth.predictor import Predictor

DEFAULT_FOLDER = "evaluation"
SHOWN = 8
GIVEN, RAMP = "predictions", "ramp"
TABLE = ("abs_rel", "delta1", "delta2", "rmse", "log10", "silog")
MOST_ROWS = 40


def run(request: Request) -> None:
    """Measure the pictures that the request names: a table, scores.json, pictures.

    Raises:
        SuiteError: an input cannot be used, or the scores exist already.
    """
    config: EvaluateConfig = request.config
    folder = Path(request.output or DEFAULT_FOLDER)
    outputs = [folder / "scores.json", folder / "pictures.png", folder / "sparsification.png"]
    prepare_output(outputs, config.overwrite)
    methods = Methods(config, folder)
    rows: list[Row] = []
    shown: list[tuple[Case, Guess]] = []
    for case, pair in track(cases(request.inputs, config), "pictures"):
        guesses = methods.guesses(case, pair)
        rows += measured(case, guesses, config.alignments)
        if len(shown) < SHOWN:
            shown.append((case, next(iter(guesses.values()))))
    if not rows:
        raise InputError("there is nothing to measure", "name pictures with depth, or give drawn=48")
    means = summary(rows)
    if config.pictures:
        from diffusion_suite.depth.plots import save_grid, save_sparsification

        save_grid(outputs[1], shown, config.alignments[0])
        save_sparsification(outputs[2], [row for row in rows if row.method == rows[0].method])
    record: dict[str, Any] = {"mean": means, "pictures": [row.as_dict() for row in rows]}
    record |= {"config": request.config_name, "config_hash": request.config_hash}
    with atomic_path(outputs[0]) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table(rows, means)
    say(f"scores{' and pictures' if config.pictures else ''} are in {folder}")


class Methods:
    """What is measured on every picture: maps that exist or the network, and the ramp.

    Args:
        config: the settings.
        folder: for the windows of large pictures.
    """

    def __init__(self, config: EvaluateConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.networks: dict[str, Predictor] = {}

    def guesses(self, case: Case, pair: Pair | None) -> dict[str, Guess]:
        """Predictions of a picture by method."""
        found: dict[str, Guess] = {}
        if self.config.predictions is not None and pair is not None:
            found[GIVEN] = stored_guess(case, pair, self.config)
        elif self.config.predictions is None:
            for name, predictor in self._loaded().items():
                found[name] = network_guess(case, predictor, self.folder)
        if self.config.baseline:
            found[RAMP] = ramp(case)
        return found

    def _loaded(self) -> dict[str, Predictor]:
        if self.networks:
            return self.networks
        from diffusion_suite.depth.predictor import Predictor

        config = self.config
        first = Predictor.load(config)
        side = protocol_of(config).side
        if config.resolution is None and side is not None:
            first = first.changed(resolution=side)
        for steps in dict.fromkeys([config.steps, *config.more_steps]):
            for run in range(config.repeats):
                name = f"{steps} step{'s' if steps > 1 else ''}" + (f", run {run + 1}" if run else "")
                self.networks[name] = first.changed(steps=steps, seed=config.seed + run)
        return self.networks


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Means over the pictures by method and alignment, each picture of the same weight.

    Where a method ran several times, `abs_rel_deviation` is the standard deviation of its mean AbsRel.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.alignment), []).append(row)
    found = []
    for (method, alignment), members in groups.items():
        dicts = [row.as_dict() for row in members]
        entry: dict[str, Any] = {"method": method, "alignment": alignment, "pictures": len(members)}
        names = [*Metrics.__dataclass_fields__, "boundary_f1", "ause", "ause_of_chance", "rank_correlation"]
        for name in [*names, "seconds", "megabytes"]:
            values = [one[name] for one in dicts if one.get(name) is not None]
            if values:
                entry[name] = round(float(np.mean(values)), 6)
        found.append(entry)
    for entry in found:
        runs = [
            other["abs_rel"]
            for other in found
            if other["alignment"] == entry["alignment"]
            and other["method"].split(", run")[0] == entry["method"]
        ]
        if len(runs) > 1:
            entry["abs_rel_deviation"] = round(float(np.std(runs, ddof=1)), 6)
    return found


def print_table(rows: Sequence[Row], means: Sequence[dict[str, Any]]) -> None:
    """The means, and the pictures where they are few, on standard output."""
    from rich.console import Console
    from rich.table import Table

    more = {"boundary_f1": "edge F1", "rank_correlation": "rank corr.", "seconds": "s"}
    used = [name for name in more if any(entry.get(name) is not None for entry in means)]
    table = Table(box=None, header_style="bold")
    for title in ("picture", "method", "alignment"):
        table.add_column(title)
    for title in [*(LABELS[name] for name in TABLE), *(more[name] for name in used)]:
        table.add_column(title, justify="right")
    lines = [row.as_dict() for row in rows] if len(rows) <= MOST_ROWS else []
    for line in [*lines, *({"picture": f"mean of {entry['pictures']}", **entry} for entry in means)]:
        table.add_row(
            *(str(line[name]) for name in ("picture", "method", "alignment")),
            *(_cell(line.get(name)) for name in (*TABLE, *used)),
            style="bold" if "pictures" in line else None,
        )
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
