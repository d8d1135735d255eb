"""Does a generator copy its training items? AuthPct and C_T.

Alaa et al. 2022 (authenticity), Meehan, Chaudhuri, Dasgupta 2020 (C_T). Both need the training set itself;
C_T also needs real items that the generator never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.features import checked, nearest, nearest_others, same_width

LEAST = 20
"""A cell counts when it holds more generated items than this."""

WIDTH = 64
"""Wider features are brought to this many principal components before C_T."""

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
EVERYTHING = slice(None)


def authentic(train: Tensor, generated: Tensor) -> Tensor:
    """Which generated items are no copies of training items.

    An item is authentic when its nearest training item has another training item nearer than it.

    Args:
        train: features (n, d) of the training set.
        generated: features (m, d).

    Returns:
        (m,), bool. AuthPct is their mean times 100; without any copying a large set has about 50.

    Raises:
        InputError: features that are not finite, fewer than 2 training items, unequal widths.
    """
    train, generated = checked(train, 2, "training set"), checked(generated, 1, "generated set")
    same_width(train, generated)
    distance, index = nearest(generated, train)
    return nearest_others(train)[:, 0][index[:, 0]] < distance[:, 0]


@dataclass(frozen=True)
class CopyingStatistic:
    """C_T with what it is made of; `of_resample` repeats its last step on other items.

    Attributes:
        value: below 0, generated items lie nearer to training items than test items do (about -5 and below:
            copying); above 0, farther (underfitting). About standard normal when neither holds.
        cells: Z-score of each cell; NaN for one with too few items.
        overall: Z-score without cells.
        counts: (cells, 3) training, test and generated items in each.
    """

    value: float
    cells: tuple[float, ...]
    overall: float
    counts: Tensor


@dataclass(frozen=True)
class Nearness:
    """Distances to the training set, and cells.

    Attributes:
        test: (n,) distance of each test item to the nearest training item of its cell.
        generated: (m,) the same of each generated item.
        test_cells, generated_cells, train_cells: the cell of each item.
        overall: distances of test and generated items to the nearest training item of any cell.
        cells: number of cells.
    """

    test: Values
    generated: Values
    test_cells: Indices
    generated_cells: Indices
    train_cells: Indices
    overall: tuple[Values, Values]
    cells: int

    def z_scores(
        self, test: Indices | slice = EVERYTHING, generated: Indices | slice = EVERYTHING
    ) -> list[float]:
        """Z-score of each cell for a choice of items."""
        seen = self.test[test], self.test_cells[test]
        made = self.generated[generated], self.generated_cells[generated]
        scores = []
        for cell in range(self.cells):
            inside = [values[cells == cell] for values, cells in (made, seen)]
            trained = bool((self.train_cells == cell).any())
            enough = len(inside[0]) > LEAST and len(inside[1]) > 0 and trained
            scores.append(z_score(*inside) if enough else float("nan"))
        return scores

    def statistic(self, test: Indices | slice = EVERYTHING, generated: Indices | slice = EVERYTHING) -> float:
        """C_T for a choice of items (all): Z-scores weighed by the test items of their cells; NaN if none."""
        scores = np.array(self.z_scores(test, generated))
        weights = np.bincount(self.test_cells[test], minlength=self.cells)
        counted = np.isfinite(scores)
        if not counted.any():
            return float("nan")
        return float((scores[counted] * weights[counted]).sum() / weights[counted].sum())


def copying_statistic(
    train: Tensor,
    test: Tensor,
    generated: Tensor,
    *,
    cells: int = 3,
    centroids: Tensor | None = None,
    seed: int = 0,
) -> CopyingStatistic:
    """C_T: are generated items nearer to the training set than unseen real ones, cell by cell?

    Z-scored Mann-Whitney statistic of the distances of generated against test items, in each cell with more
    than 20 generated items, weighed by the share of test items.

    Args:
        train: features (n, d) of the training set.
        test: features of real items that were not trained on.
        generated: features of generated items.
        cells: k-means cells of the training set.
        centroids: centres (cells, d) of the cells, instead of k-means and without principal components.
        seed: of k-means.

    Raises:
        InputError: features that are not finite, unequal widths, or no cell that counts.
    """
    near = nearness(train, test, generated, cells=cells, centroids=centroids, seed=seed)
    placed = (near.train_cells, near.test_cells, near.generated_cells)
    counts = [np.bincount(cell, minlength=near.cells) for cell in placed]
    return CopyingStatistic(
        near.statistic(),
        tuple(near.z_scores()),
        z_score(near.overall[1], near.overall[0]),
        torch.from_numpy(np.stack(counts, 1)),
    )


def nearness(
    train: Tensor,
    test: Tensor,
    generated: Tensor,
    *,
    cells: int = 3,
    centroids: Tensor | None = None,
    seed: int = 0,
) -> Nearness:
    """The distances behind C_T, for `copying_statistic` and its resamples; arguments and errors as there."""
    names = ("training set", "test set", "generated set")
    sets = [checked(part, 2, name) for part, name in zip((train, test, generated), names, strict=True)]
    for part in sets[1:]:
        same_width(sets[0], part)
    if centroids is None:
        sets = _principal(sets)
        centres = k_means(sets[0], cells, seed)
    else:
        centres = checked(centroids, 1, "centroids").to(sets[0].device)
        same_width(sets[0], centres)
    placed = [nearest(part, centres)[1][:, 0] for part in sets]
    inside = [
        _within(part, cell, sets[0], placed[0]) for part, cell in zip(sets[1:], placed[1:], strict=True)
    ]
    overall = [nearest(part, sets[0])[0][:, 0] for part in sets[1:]]
    train_cells, test_cells, generated_cells = (cell.cpu().numpy() for cell in placed)
    found = Nearness(
        test=_array(inside[0]),
        generated=_array(inside[1]),
        test_cells=test_cells,
        generated_cells=generated_cells,
        train_cells=train_cells,
        overall=(_array(overall[0]), _array(overall[1])),
        cells=len(centres),
    )
    if np.isnan(found.statistic()):
        raise InputError(
            f"C_T: no cell holds more than {LEAST} generated items beside test and training items",
            "give more generated items, or cells=1",
        )
    return found


def z_score(first: Values, second: Values) -> float:
    """Z-score of the Mann-Whitney statistic of `first` against `second`: below 0 where `first` is smaller."""
    from scipy.stats import rankdata

    n, m = len(first), len(second)
    ranks = rankdata(np.concatenate([first, second]))[:n]
    statistic = float(ranks.sum()) - n * (n + 1) / 2
    return (statistic - (n * m / 2 - 0.5)) / float(np.sqrt(n * m * (n + m + 1) / 12))


def k_means(points: Tensor, cells: int, seed: int = 0, steps: int = 100) -> Tensor:
    """Centres (cells, d) of points (n, d): spread first centres (k-means++), then Lloyd's steps to rest.

    Raises:
        InputError: fewer points than cells.
    """
    if len(points) < cells:
        raise InputError(f"{len(points)} training items for {cells} cells", "give more items, or fewer cells")
    draw = seeding.generator(seed, "k_means")
    centres = points[int(torch.randint(len(points), (), generator=draw))][None]
    for _ in range(cells - 1):
        weights = nearest(points, centres)[0][:, 0].square().cpu()
        weights = torch.where(weights.sum() > 0, weights, torch.ones_like(weights))
        cumulated = weights.cumsum(0)
        place = torch.rand((), generator=draw, dtype=torch.float64) * cumulated[-1]
        index = min(int(torch.searchsorted(cumulated, place, right=True)), len(points) - 1)
        centres = torch.cat([centres, points[index][None]])
    for _ in range(steps):
        cell = nearest(points, centres)[1][:, 0]
        member = torch.nn.functional.one_hot(cell, cells).to(points)
        counts = member.sum(0)[:, None]
        moved = torch.where(counts > 0, member.T @ points / counts.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _principal(sets: list[Tensor]) -> list[Tensor]:
    """All sets in the leading principal components of the training set (the first), when they are wide."""
    train = sets[0]
    if train.shape[1] <= WIDTH:
        return sets
    mean = train.mean(0)
    _, _, right = torch.linalg.svd(train - mean, full_matrices=False)
    return [(part - mean) @ right[:WIDTH].T for part in sets]


def _within(part: Tensor, cells: Tensor, train: Tensor, train_cells: Tensor) -> Tensor:
    """Distance of each item to the nearest training item of its own cell; infinity where that is empty."""
    found = torch.full((len(part),), torch.inf).to(part)
    for cell in range(int(cells.max()) + 1):
        chosen, trained = cells == cell, train[train_cells == cell]
        if bool(chosen.any()) and len(trained):
            found[chosen] = nearest(part[chosen], trained)[0][:, 0]
    return found


def _array(values: Tensor) -> Values:
    array: Values = values.double().cpu().numpy()
    return array
