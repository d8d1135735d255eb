"""Fréchet distance between two sets of features, right for few samples and for singular covariances.

FD = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2) with unbiased covariances, in float64. With any
factors S = F F^T the last term is the nuclear norm of F_1^T F_2: no root of a matrix, nothing imaginary. Its
square's eigenvalues are faster to come by; they are taken where they keep six digits of the distance.

    >>> import torch
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> abs(frechet_distance(x, x + 1) - 3) < 1e-5
    True
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.features import checked, same_width

SINGULAR = 1e-12
"""Covariances whose pivots fall below this share of the largest are treated as singular."""

DIGITS = 1e-6
"""Relative error of the distance that is allowed when roots of small eigenvalues lose digits."""

STRIPS = 4


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features; two of them add up to those of both sets together.

    Attributes:
        mean: (d,) in float64.
        covariance: (d, d) in float64, unbiased; 0 of a single sample.
        count: number of samples; None when it is not known, as of published moments.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Moments of features (n, d); sets too large for memory are added up batch by batch.

        Raises:
            InputError: features that are not finite.
            ValueError: not a matrix, or no sample.
        """
        centred, mean = _centred(checked(features, least=1))
        return cls(mean, _gram(centred) / max(1, len(centred) - 1), len(centred))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub, LeVeque 1983).

        Raises:
            ValueError: a number of samples is not known.
        """
        if self.count is None or other.count is None:
            raise ValueError("moments without a number of samples cannot be added")
        total = self.count + other.count
        step = other.mean - self.mean
        between = torch.outer(step, step) * (self.count * other.count / total)
        within = self.covariance * (self.count - 1) + other.covariance * (other.count - 1)
        mean = self.mean + step * (other.count / total)
        return Moments(mean, (within + between) / (total - 1), total)


def frechet_distance(real: Tensor | Moments, fake: Tensor | Moments) -> float:
    """Fréchet distance between two sets of features, or between given moments.

    Args:
        real: features (n, d), or their moments.
        fake: features (m, d), or their moments.

    Returns:
        The distance, at least 0; symmetric in its arguments. It falls with n and m: compare values of equal
        sizes only, or use `frechet_infinity`.

    Raises:
        InputError: features that are not finite, fewer than 2 samples, unequal widths.
        ValueError: not matrices.

    Warns:
        UserWarning: a set has fewer than 2 d samples, so that the value is mostly bias.
    """
    sides = side_of(real), side_of(fake)
    same_width(sides[0].mean, sides[1].mean)
    width = len(sides[0].mean)
    if any(few(given, width) for given in (real, fake)):
        warnings.warn(
            f"fewer than {2 * width} samples for {width} features: the distance is mostly bias", stacklevel=2
        )
    return distance(*sides)


def few(given: Tensor | Moments, width: int) -> bool:
    """Whether a set has fewer than 2 d samples, too few for a covariance of this width d."""
    count = given.count if isinstance(given, Moments) else len(given)
    return count is not None and count < 2 * width


@dataclass(frozen=True)
class Rows:
    """Moments of few features, (n, d) with n <= d, kept as rows R with covariance R^T R.

    Attributes:
        mean: (d,) in float64.
        rows: (n, d) in float64, centred, over sqrt(n - 1).
    """

    mean: Tensor
    rows: Tensor


Side = Moments | Rows


def side_of(given: Tensor | Moments) -> Side:
    """What `distance` needs of one set; the d x d covariance is formed only when n > d.

    Raises:
        InputError: features that are not finite, or fewer than 2 samples.
        ValueError: features that are no matrix, or moments whose shapes do not fit.
    """
    if isinstance(given, Moments):
        return _as_moments(given)
    features = checked(given)
    if len(features) > features.shape[1]:
        return Moments.of(features)
    centred, mean = _centred(features)
    return Rows(mean, centred / (len(features) - 1) ** 0.5)


def distance(real: Side, fake: Side) -> float:
    """Fréchet distance of two prepared sets."""
    apart = (real.mean - fake.mean).square().sum() + _variance(real) + _variance(fake)
    if isinstance(real, Moments) and isinstance(fake, Moments):
        overlap, error = _by_eigenvalues(real, fake)
        if bool(error < DIGITS * (apart - 2.0 * overlap)):
            return float(apart - 2.0 * overlap)
    overlap = torch.linalg.svdvals(_factor(real).T @ _factor(fake)).sum()
    return max(0.0, float(apart - 2.0 * overlap))


def _by_eigenvalues(real: Moments, fake: Moments) -> tuple[Tensor, Tensor]:
    """Tr (S_1 S_2)^(1/2) as the sum of roots of the eigenvalues of F^T S_2 F, and a bound of twice its error.

    Fast, but an eigenvalue's error of some rounding units of the largest grows in the root of a small one.
    """
    lower = _cholesky(real)
    if lower is not None:
        product = _half_of_congruence(lower, fake.covariance)
    else:
        factor = _factor(real)
        product = factor.T @ fake.covariance @ factor
    values = torch.linalg.eigvalsh(product).clamp(min=0.0)
    unit = 4.0 * torch.finfo(values.dtype).eps * values[-1:].sum()
    roots = values.sqrt()
    return roots.sum(), torch.minimum(unit.sqrt(), unit / roots).sum()


def _half_of_congruence(lower: Tensor, covariance: Tensor) -> Tensor:
    """Lower half of L^T S L for a lower triangular L, strip by strip: a third of the work of two products."""
    half = torch.zeros_like(covariance)
    for start, columns in _strips(len(lower)):
        inner = covariance[start:, start:] @ lower[start:, columns]
        half[start:, columns] = lower[start:, start:].T @ inner
    return half


def _gram(x: Tensor) -> Tensor:
    """X^T X, half of it computed and mirrored."""
    half = torch.zeros(x.shape[1], x.shape[1]).to(x)
    for start, columns in _strips(x.shape[1]):
        half[start:, columns] = x[:, start:].T @ x[:, columns]
    return half.tril() + half.tril(-1).T


def _strips(width: int) -> list[tuple[int, slice]]:
    step = -(-width // STRIPS)
    return [(start, slice(start, start + step)) for start in range(0, width, step)]


def _variance(side: Side) -> Tensor:
    return side.rows.square().sum() if isinstance(side, Rows) else side.covariance.trace()


def _cholesky(moments: Moments) -> Tensor | None:
    """Lower factor of a covariance, None when it is nearly singular."""
    lower, failed = torch.linalg.cholesky_ex(moments.covariance)
    diagonal = lower.diagonal().square()
    good = not bool(failed) and bool(diagonal.min() > SINGULAR * diagonal.max())
    return lower if good else None


def _factor(side: Side) -> Tensor:
    """F with F F^T equal to the covariance, without the directions that only rounding fills."""
    if isinstance(side, Rows):
        return side.rows.T
    lower = _cholesky(side)
    if lower is not None:
        return lower
    values, vectors = torch.linalg.eigh(side.covariance)
    kept = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def _as_moments(given: Moments) -> Moments:
    width = len(given.mean)
    if given.covariance.shape != (width, width):
        raise ValueError(f"a covariance {tuple(given.covariance.shape)} does not fit a mean of {width}")
    if given.count is not None and given.count < 2:
        raise InputError("moments of a single sample have no covariance", "give more samples")
    mean, covariance = checked(given.mean[None], 1, "the mean")[0], checked(given.covariance, 1, "covariance")
    return Moments(mean, covariance, given.count)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(0)
    return features - mean, mean


@dataclass(frozen=True)
class Extrapolation:
    """A Fréchet distance at several sizes of the generated set, and its limit.

    Attributes:
        value: intercept of the line of the distances over 1/n.
        sizes: numbers of generated samples.
        values: distances at these sizes.
    """

    value: float
    sizes: tuple[int, ...]
    values: tuple[float, ...]


def frechet_infinity(
    real: Tensor | Moments,
    fake: Tensor,
    *,
    sizes: int | Sequence[int] = 15,
    subsets: Sequence[Tensor] | None = None,
    seed: int = 0,
) -> Extrapolation:
    """Fréchet distance without its bias in the number of generated samples (Chong, Forsyth 2020).

    A line is fitted to the distances of random subsets of the generated set over 1/n; its value at 0 is what
    infinitely many samples would give. The bias of a small real set stays.

    Args:
        real: features (n, d) or moments.
        fake: features (m, d).
        sizes: how many sizes, evenly from m/4 to m, or the sizes.
        subsets: indices of the subsets themselves, each (size,), instead of random ones.
        seed: of the random subsets.

    Raises:
        InputError: as `frechet_distance`, or too few generated samples for two sizes.
        ValueError: sizes that `fake` does not hold, or fewer than two different ones.
    """
    fake, reference = checked(fake, least=8), side_of(real)
    same_width(reference.mean, fake)
    if subsets is None:
        wanted = _spread(len(fake), sizes) if isinstance(sizes, int) else list(sizes)
        if any(not 2 <= size <= len(fake) for size in wanted):
            raise ValueError(f"sizes {wanted} do not fit {len(fake)} samples")
        draws = [seeding.generator(seed, "fd_infinity", index) for index in range(len(wanted))]
        pairs = zip(wanted, draws, strict=True)
        subsets = [torch.randperm(len(fake), generator=draw)[:size] for size, draw in pairs]
    counts = [len(subset) for subset in subsets]
    if len(set(counts)) < 2:
        raise ValueError("a line needs subsets of two sizes at least")
    values = [distance(reference, side_of(fake[subset.to(fake.device)])) for subset in subsets]
    inverse = torch.tensor([1.0 / count for count in counts], dtype=torch.float64)
    found = torch.tensor(values, dtype=torch.float64)
    away = inverse - inverse.mean()
    slope = (away * found).sum() / away.square().sum()
    return Extrapolation(float(found.mean() - slope * inverse.mean()), tuple(counts), tuple(values))


def _spread(count: int, sizes: int) -> list[int]:
    steps = torch.linspace(count / 4.0, count, sizes, dtype=torch.float64)
    return [max(2, int(step)) for step in steps.round()]
