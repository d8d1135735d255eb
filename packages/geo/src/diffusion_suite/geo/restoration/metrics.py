"""How good a restored cube is: PSNR, SSIM, spectral angle and ERGAS against a clean one, block by block.

Each band is measured on the range of its clean self, ``u = (x - low) / (high - low)`` with its smallest and
largest clean value, so that the peak is 1. Samples missing in the clean scene do not count.

* PSNR of a band: ``-10 log10 mean (u' - u)^2``; the mean over bands is reported.
* SSIM of a band: 7 x 7 uniform window, data range 1 (scikit-image); the mean over bands is reported.
* SAM: mean over pixels of the angle between the spectra, in degrees, of ``u``.
* ERGAS: ``100 / ratio * sqrt(mean_b (RMSE_b / mean_b)^2)`` in the unit of the file (Wald 2000).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

Values = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

WINDOW = 7
HALO = WINDOW // 2


@dataclass(frozen=True)
class Scores:
    """Figures of a restored cube.

    Attributes:
        psnr: mean over bands, dB; infinite for identical cubes.
        ssim: mean over bands; NaN for images below 7 x 7 pixels.
        sam: mean spectral angle in degrees; NaN for one band.
        ergas: relative global error, 0 = identical.
        psnr_bands, ssim_bands: one figure a band, NaN where a band has no clean samples.
    """

    psnr: float
    ssim: float
    sam: float
    ergas: float
    psnr_bands: list[float]
    ssim_bands: list[float]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; infinities and NaN, which JSON lacks, become text and null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if np.isnan(value):
        return None
    return round(float(value), 6) if np.isfinite(value) else "inf"


def band_range(blocks: Iterable[tuple[Values, Flags]]) -> tuple[Values, Values]:
    """Smallest and largest observed value of each band.

    Args:
        blocks: (h, w, bands) values and flags, True = observed.

    Returns:
        Two arrays (bands,), NaN for bands that were never observed.
    """
    low = high = None
    for values, seen in blocks:
        least = np.where(seen, values, np.inf).min(axis=(0, 1))
        most = np.where(seen, values, -np.inf).max(axis=(0, 1))
        low = least if low is None else np.minimum(low, least)
        high = most if high is None else np.maximum(high, most)
    if low is None or high is None:
        raise ValueError("no blocks")
    empty = low > high
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


class Scorer:
    """Sums up the figures over blocks of rows.

    Args:
        low, high: range of the clean bands, shape (bands,); a constant band is measured in its own unit.
        ratio: super-resolution factor that ERGAS is divided by.
        clip: clip the restored bands to the clean range first, as the published figures do.
    """

    def __init__(self, low: Values, high: Values, ratio: int = 1, clip: bool = False) -> None:
        self._low = np.nan_to_num(np.asarray(low, np.float64))
        span = np.nan_to_num(np.asarray(high, np.float64)) - self._low
        self._span = np.where(span > 0, span, 1.0)
        self._ratio, self._clip = ratio, clip
        bands = self._low.size
        self._square, self._count, self._clean = np.zeros(bands), np.zeros(bands), np.zeros(bands)
        self._similar, self._windows = np.zeros(bands), np.zeros(bands)
        self._angle, self._pixels = 0.0, 0

    def add(self, clean: Values, restored: Values, valid: Flags, core: slice = slice(None)) -> None:
        """Count a block of rows.

        Args:
            clean: (h, w, bands).
            restored: (h, w, bands).
            valid: (h, w, bands), True where the sample counts.
            core: rows that count; the others (3 above, 3 below, where there are any) are context of SSIM.
        """
        u = np.where(valid, (clean - self._low) / self._span, 0.0)
        v = np.where(valid, (restored - self._low) / self._span, 0.0)
        v = np.where(valid & np.isnan(v), 0.0, v)
        if self._clip:
            v = np.clip(v, 0, 1)
        self._add_similarity(u, v, valid)
        u, v, valid = u[core], v[core], valid[core]
        self._square += ((u - v) ** 2).sum(axis=(0, 1))
        self._count += valid.sum(axis=(0, 1))
        self._clean += np.where(valid, clean[core], 0.0).sum(axis=(0, 1))
        self._add_angle(u, v, np.asarray(valid.any(axis=-1)))

    def _add_similarity(self, u: Values, v: Values, valid: Flags) -> None:
        if min(u.shape[:2]) < WINDOW:
            return
        inner = (slice(HALO, -HALO), slice(HALO, -HALO))
        for band in range(u.shape[2]):
            _, similar = structural_similarity(
                u[..., band], v[..., band], data_range=1.0, win_size=WINDOW, full=True
            )
            counted = valid[inner][..., band]
            self._similar[band] += similar[inner][counted].sum()
            self._windows[band] += counted.sum()

    def _add_angle(self, u: Values, v: Values, valid: Flags) -> None:
        u, v = u[valid], v[valid]
        lengths = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
        some = lengths > 0
        cosine = (u * v).sum(axis=-1)[some] / lengths[some]
        self._angle += float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).sum())
        self._pixels += int(some.sum())

    def scores(self) -> Scores:
        """The figures over all blocks so far."""
        with np.errstate(divide="ignore", invalid="ignore"):
            error = self._square / self._count
            psnr = -10 * np.log10(error)
            ssim = self._similar / self._windows
            relative = np.sqrt(error) * self._span / (self._clean / self._count)
        relative = relative[np.isfinite(relative)]
        return Scores(
            psnr=_mean(psnr),
            ssim=_mean(ssim),
            sam=self._angle / self._pixels if self._pixels and self._low.size > 1 else float("nan"),
            ergas=100 / self._ratio * float(np.sqrt(np.mean(relative**2))) if relative.size else float("nan"),
            psnr_bands=[float(x) for x in psnr],
            ssim_bands=[float(x) for x in ssim],
        )


def _mean(values: Values) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def score(
    clean: Values, restored: Values, valid: Flags | None = None, ratio: int = 1, clip: bool = False
) -> Scores:
    """The figures of one cube in memory.

    Args:
        clean: (rows, cols, bands) in any unit; NaN does not count.
        restored: the same shape.
        valid: the same shape, True where a sample counts.
        ratio: super-resolution factor that ERGAS is divided by.
        clip: clip the restored bands to the clean range first, as the published figures do.

    Raises:
        ValueError: when the shapes differ.
    """
    if clean.shape != restored.shape:
        raise ValueError(f"clean {clean.shape} and restored {restored.shape} differ in shape")
    seen = np.isfinite(clean) if valid is None else valid & np.isfinite(clean)
    scorer = Scorer(*band_range([(clean, seen)]), ratio=ratio, clip=clip)
    scorer.add(clean, restored, seen)
    return scorer.scores()
