"""``metrics.csv`` in the run folder, which a resumed run goes on with."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from diffusion_suite.core.files import atomic_path


def main_process() -> bool:
    """Whether this process is the first of a distributed run, or the only one."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


class MetricsFile(Logger):
    """One row a logged step, one column a metric.

    Lightning's own CSV logger starts anew on resume; this one goes on.

    Args:
        folder: the run folder.
        resumed_step: rows after this step are dropped, since the resumed run writes them again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.path, self.folder = folder / "metrics.csv", folder
        self.columns: list[str] = ["step"]
        if main_process():
            self._keep_until(resumed_step)

    @property
    @override
    def name(self) -> str:
        return "metrics"

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run folder holds config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row; ``step`` counts optimiser steps done."""
        row: dict[str, Any] = {"step": (step or 0) + 1}
        row |= {name: f"{value:.8g}" for name, value in metrics.items() if name != "epoch"}
        new = [name for name in row if name not in self.columns]
        if new:
            old = self._rows()
            self.columns += new
            self._write(old)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        with atomic_path(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def _keep_until(self, step: int) -> None:
        rows = [row for row in self._rows() if (row.get("step") or "").isdigit() and int(row["step"]) <= step]
        if rows:
            self.columns = [name for name in rows[0] if name]
            self._write([{name: row.get(name) or "" for name in self.columns} for row in rows])
        else:
            self.path.unlink(missing_ok=True)
