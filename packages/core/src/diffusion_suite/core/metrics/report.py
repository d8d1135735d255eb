"""Named metrics of sets of features, each with its sample sizes and a standard error.

>>> import torch
>>> draw = torch.Generator().manual_seed(0)
>>> real, fake = torch.randn(60, 4, generator=draw), torch.randn(50, 4, generator=draw)
>>> [score.name for score in measure(Sets(real, fake), ["fd", "precision"], "pixels")]
['fd_pixels', 'precision_pixels']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from diffusion_suite.core.config_schema import suggest
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.metrics.config import MEMORISATION, METRICS
from diffusion_suite.core.metrics.dimension import levina_bickel_terms, two_nn_terms
from diffusion_suite.core.metrics.diversity import sliced_wasserstein, vendi_score
from diffusion_suite.core.metrics.features import checked, same_width
from diffusion_suite.core.metrics.frechet import distance, few, frechet_infinity, side_of
from diffusion_suite.core.metrics.kernel import kernel_distance, kernel_distance_full, kernel_resamples
from diffusion_suite.core.metrics.memorisation import authentic, nearness
from diffusion_suite.core.metrics.neighbours import Fidelity, fidelity, realism
from diffusion_suite.core.metrics.resamples import Resamples, spread


@dataclass(frozen=True)
class Score:
    """One figure.

    Attributes:
        name: metric and encoder, e.g. ``fd_dinov2``.
        value: the figure.
        standard_error: standard deviation over resamples; None when none were asked for.
        sizes: items of each set that took part.
        note: what to know before trusting it; empty when there is nothing.
    """

    name: str
    value: float
    standard_error: float | None
    sizes: dict[str, int]
    note: str = ""


@dataclass(frozen=True)
class Options:
    """How metrics are computed; see the settings of ``core evaluate``."""

    k: int = 5
    subsets: int = 100
    subset_size: int = 1000
    order: float = 1.0
    cells: int = 3
    bootstrap: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Sets:
    """The features that are compared, each (items, width).

    Attributes:
        real: real items.
        fake: generated items.
        train: what the generator was trained on, for AuthPct and C_T.
        test: real items that it was not trained on, for AuthPct and C_T.
    """

    real: Tensor
    fake: Tensor
    train: Tensor | None = None
    test: Tensor | None = None


def measure(sets: Sets, metrics: Sequence[str], encoder: str, options: Options | None = None) -> list[Score]:
    """Compute metrics.

    Args:
        sets: features.
        metrics: names, from ``METRICS``.
        encoder: what the results call the encoder of the features.
        options: neighbours, subsets, resamples, seed.

    Returns:
        One score a metric, two where the real set has one of its own.

    Raises:
        ConfigError: an unknown metric, or one of memorisation without training and test sets.
        InputError: features that cannot be used.
    """
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"no metric {name!r}", suggest(name, METRICS))
    wanted = [name for name in metrics if name in MEMORISATION]
    if wanted and (sets.train is None or sets.test is None):
        raise ConfigError(
            f"'{wanted[0]}' tells copies of training items from new ones", "give a training and a test set"
        )
    given = {"real": sets.real, "fake": sets.fake, "train": sets.train, "test": sets.test}
    features = {name: checked(part, 2, f"{name} set") for name, part in given.items() if part is not None}
    for part in features.values():
        same_width(features["real"], part)
    bench = _Bench(features, encoder, options or Options())
    return [score for name in dict.fromkeys(metrics) for score in getattr(bench, name)()]


PAIR = ("real", "fake")


class _Bench:
    """The metrics, each a method of its name, on shared intermediate results."""

    def __init__(self, sets: dict[str, Tensor], encoder: str, options: Options) -> None:
        self.sets, self.encoder, self.options = sets, encoder, options
        self.real, self.fake = sets["real"], sets["fake"]
        self.resamples = Resamples(options.bootstrap, options.seed)

    def fd(self) -> list[Score]:
        return self._pairwise("fd", _frechet, self._scarce())

    def fd_infinity(self) -> list[Score]:
        def limit(real: Tensor, fake: Tensor) -> float:
            return frechet_infinity(real, fake, seed=self.options.seed).value

        return self._pairwise("fd_infinity", limit, self._scarce())

    def kd(self) -> list[Score]:
        settings = self.options
        found = kernel_distance(
            self.real,
            self.fake,
            subsets=settings.subsets,
            size=settings.subset_size,
            seed=settings.seed,
        )
        count = len(found.values)
        note = f"{count} subsets of {found.size}" if count > 1 else "all items at once"
        return [self._score("kd", found.value, self._kernel_error, PAIR, note)]

    def kd_full(self) -> list[Score]:
        return [self._score("kd_full", kernel_distance_full(self.real, self.fake), self._kernel_error, PAIR)]

    @cached_property
    def _kernel_error(self) -> float | None:
        if not self.resamples.count:
            return None
        real, fake = (self.resamples.counts(f"kd {name}", len(self.sets[name])) for name in PAIR)
        return spread(kernel_resamples(self.real, self.fake, (real, fake)).tolist())

    def precision(self) -> list[Score]:
        return [self._of_items("precision", self._fidelity.inside, _mean, PAIR)]

    def recall(self) -> list[Score]:
        return [self._of_items("recall", self._fidelity.reached, _mean, PAIR)]

    def density(self) -> list[Score]:
        return [self._of_items("density", self._fidelity.balls, _mean, PAIR)]

    def coverage(self) -> list[Score]:
        return [self._of_items("coverage", self._fidelity.covered, _mean, PAIR)]

    @cached_property
    def _fidelity(self) -> Fidelity:
        return fidelity(self.real, self.fake, self.options.k)

    def realism(self) -> list[Score]:
        values = realism(self.real, self.fake, self.options.k)
        return [self._of_items("realism", values, lambda chosen: float(chosen.median()), PAIR)]

    def vendi(self) -> list[Score]:
        return [self._vendi("vendi", "fake"), self._vendi("vendi_real", "real")]

    def _vendi(self, title: str, of: str) -> Score:
        features, order = self.sets[of], self.options.order
        error = None
        if self.resamples.count:
            counts = self.resamples.counts(f"vendi {of}", len(features))
            error = spread([vendi_score(features, order, weights=column) for column in counts.T])
        note = "" if order == 1.0 else f"order {order:g}"
        return self._score(title, vendi_score(features, order), error, (of,), note)

    def sliced_wasserstein(self) -> list[Score]:
        return self._pairwise("sliced_wasserstein", sliced_wasserstein)

    def dimension_mle(self) -> list[Score]:
        return self._dimension("dimension_mle", levina_bickel_terms)

    def dimension_two_nn(self) -> list[Score]:
        return self._dimension("dimension_two_nn", two_nn_terms)

    def _dimension(self, name: str, terms: Callable[[Tensor], Tensor]) -> list[Score]:
        scores = []
        for title, of in ((name, "fake"), (f"{name}_real", "real")):
            values = terms(self.sets[of])
            equal = len(self.sets[of]) - len(values)
            note = f"{equal} equal items left out" if equal else ""
            scores.append(self._of_items(title, values, _inverse_mean, (of,), note))
        return scores

    def authpct(self) -> list[Score]:
        values = 100.0 * authentic(self.sets["train"], self.fake).double()
        return [self._of_items("authpct", values, _mean, ("train", "fake"))]

    def ct(self) -> list[Score]:
        settings, names = self.options, ("test", "fake")
        near = nearness(
            *(self.sets[name] for name in ("train", *names)), cells=settings.cells, seed=settings.seed
        )
        value = near.statistic()
        resampled = []
        for index in range(self.resamples.count):
            drawn = [self.resamples.indices(f"ct {name}", len(self.sets[name]), index) for name in names]
            resampled.append(near.statistic(*(chosen.numpy() for chosen in drawn)))
        used = sum(math.isfinite(score) for score in near.z_scores())
        note = f"{used} of {near.cells} cells"
        return [self._score("ct", value, spread(resampled), ("train", *names), note)]

    def _pairwise(
        self, name: str, statistic: Callable[[Tensor, Tensor], float], note: str = ""
    ) -> list[Score]:
        """A statistic of both sets, each of which is resampled."""
        error = self.resamples.error(name, statistic, self.real, self.fake)
        return [self._score(name, statistic(self.real, self.fake), error, PAIR, note)]

    def _of_items(
        self,
        name: str,
        values: Tensor,
        statistic: Callable[[Tensor], float],
        of: tuple[str, ...],
        note: str = "",
    ) -> Score:
        """A statistic of a value of each item, which is resampled with its value."""
        return self._score(name, statistic(values), self.resamples.error(name, statistic, values), of, note)

    def _score(
        self, name: str, value: float, error: float | None, of: tuple[str, ...], note: str = ""
    ) -> Score:
        sizes = {part: len(self.sets[part]) for part in of}
        return Score(f"{name}_{self.encoder}", value, error, sizes, note)

    def _scarce(self) -> str:
        width = self.real.shape[1]
        scarce = [name for name in PAIR if few(self.sets[name], width)]
        return f"mostly bias: {' and '.join(scarce)} below {2 * width} items" if scarce else ""


def _frechet(real: Tensor, fake: Tensor) -> float:
    return distance(side_of(real), side_of(fake))


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _inverse_mean(values: Tensor) -> float:
    mean = float(values.mean())
    return 1.0 / mean if mean > 0 else math.inf


def as_json(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """Scores as JSON holds them, by name; what is not finite becomes null."""
    return {
        score.name: {
            "value": score.value if math.isfinite(score.value) else None,
            "standard_error": score.standard_error,
            "sizes": score.sizes,
            "note": score.note,
        }
        for score in scores
    }
