"""Windows of any scale and shift come out as one map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.core.windows import Window, plan
from diffusion_suite.depth.io.maps import resized
from diffusion_suite.depth.large import agreement, by_windows

HEIGHT, WIDTH, SIDE = 120, 168, 64


def relief() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    fine = 0.08 * np.sin(columns / 2.5) * np.sin(rows / 3.5)
    return (np.sin(columns / 40) + rows / HEIGHT - 0.5 + fine).astype(np.float32)


def seen(window: Window, true: np.ndarray) -> np.ndarray:
    """The window as a network gives it: stretched to -1 to 1, whatever it shows."""
    part = true[window.slices]
    low, high = part.min(), part.max()
    y = 2 * (part - low) / (high - low) - 1
    return np.stack([y, np.full_like(y, 0.1)], -1)


@pytest.mark.parametrize("overlap", [16, 24])
def test_windows_agree_with_the_whole(tmp_path: Path, overlap: int) -> None:
    true = relief()
    windows = plan((HEIGHT, WIDTH), SIDE, overlap)
    coarse = resized(true, (WIDTH // 4, HEIGHT // 4))
    y, spread = by_windows(windows, lambda w: seen(w, true), coarse, tmp_path / "windows", {})
    assert y.shape == (HEIGHT, WIDTH)
    assert np.abs(y - true).mean() < 0.02
    assert np.abs(y - true).mean() < 0.5 * np.abs(resized(coarse, (WIDTH, HEIGHT)) - true).mean()
    assert (spread > 0).all()
    assert not (tmp_path / "windows").exists()


def test_a_flat_window_stays_flat(tmp_path: Path) -> None:
    """Where the whole is flat, what a window makes of it is noise."""
    rng = numpy_generator("large")
    windows = plan((HEIGHT, WIDTH), SIDE, 16)
    flat = np.full((30, 42), 0.3, np.float32)

    def noise(window: Window) -> np.ndarray:
        y = rng.uniform(-1, 1, (*window.shape, 1))
        return np.concatenate([y, np.zeros_like(y)], -1).astype(np.float32)

    y, _ = by_windows(windows, noise, flat, tmp_path / "windows", {})
    assert np.abs(y - 0.3).max() < 0.15


def test_exact_lines_are_undone() -> None:
    true = relief()
    windows = plan((HEIGHT, WIDTH), SIDE, 16)
    rng = numpy_generator("lines")
    lines = np.stack([rng.uniform(0.5, 2, len(windows)), rng.uniform(-1, 1, len(windows))], 1)
    parts = [(true[w.slices] - b) / a for w, (a, b) in zip(windows, lines, strict=True)]
    found = agreement(windows, parts, true)
    np.testing.assert_allclose(found, lines, atol=2e-3)


def test_finished_windows_are_found_again(tmp_path: Path) -> None:
    true = relief()
    windows = plan((HEIGHT, WIDTH), SIDE, 16)
    asked: list[int] = []

    def stops(window: Window) -> np.ndarray:
        if window.index == 5 and len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(window.index)
        return seen(window, true)

    where = tmp_path / "windows"
    with pytest.raises(KeyboardInterrupt):
        by_windows(windows, stops, true, where, {"seed": 0})
    asked.append(-1)
    parts, _ = by_windows(windows, stops, true, where, {"seed": 0})
    assert asked[6:] == list(range(5, len(windows)))
    whole, _ = by_windows(windows, lambda w: seen(w, true), true, where, {"seed": 0})
    np.testing.assert_array_equal(parts, whole)
