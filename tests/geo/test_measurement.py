"""Whitening, the signal's subspace and the pixelwise estimator against closed forms and dense solves."""

import numpy as np
import pytest
import torch
from drawn_scenes import clean_cube, noisy

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.measurement import (
    Subspace,
    SubspaceEstimator,
    Whitened,
    _spike_energy,
    refit_subspace,
    signal_subspace,
    smooth_fill,
    weighed,
)

CPU = torch.device("cpu")
ROWS, COLUMNS, BANDS, RANK = 40, 48, 16, 3


def spectra(bands: int = BANDS, rank: int = RANK, name: str = "spectra") -> np.ndarray:
    basis = np.linalg.qr(numpy_generator(0, name).standard_normal((bands, rank)))[0]
    return np.asarray(basis, np.float32)


def whitened(values: np.ndarray, observed: np.ndarray | None = None) -> Whitened:
    observed = np.ones(values.shape, bool) if observed is None else observed
    zeros, ones = np.zeros(values.shape[-1]), np.ones(values.shape[-1], np.float32)
    return Whitened.of(values, observed, zeros, ones)


def scene(sigma: float = 1.0, share: float = 1.0) -> tuple[Whitened, np.ndarray, Subspace]:
    """Independent Gaussian coefficients of known deviations times known spectra, plus noise."""
    rng = numpy_generator(0, "coefficients")
    deviation = np.array([12.0, 6.0, 3.0], np.float32)
    scores = (rng.standard_normal((ROWS, COLUMNS, RANK)) * deviation).astype(np.float32)
    values = scores @ spectra().T + sigma * rng.standard_normal((ROWS, COLUMNS, BANDS))
    observed = rng.random(values.shape) < share
    return whitened(values.astype(np.float32), observed), scores, Subspace(spectra(), deviation)


def largest_angle(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two subspaces of equal rank with orthonormal columns."""
    cosine = np.linalg.svd(first.T @ second, compute_uv=False).min()
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def test_whitening_and_back():
    cube = noisy(clean_cube() * 8000 - 300, 100.0)
    observed = numpy_generator(0, "observed").random(cube.shape) < 0.8
    mean, noise = cube.mean((0, 1)), np.linspace(50, 200, cube.shape[-1]).astype(np.float32)
    data = Whitened.of(np.where(observed, cube, np.nan), observed, mean, noise)
    assert (data.values[~observed] == 0).all()
    np.testing.assert_allclose(data.back(data.values)[observed], cube[observed], rtol=1e-5, atol=1e-2)


def test_states_of_a_measurement_describe_the_same_cube():
    data, _, _ = scene(share=0.9)
    shift = np.linspace(-2, 2, BANDS, dtype=np.float32)
    scaled = data.rescale(np.linspace(0.5, 2, BANDS, dtype=np.float32))
    np.testing.assert_allclose(scaled.back(scaled.values), data.back(data.values), atol=1e-4)
    moved = data.shift(shift)
    np.testing.assert_allclose(
        (data.values - moved.values)[data.observed], (shift + 0 * data.values)[data.observed], atol=1e-5
    )
    np.testing.assert_allclose(scaled.like(data).values, scaled.values, atol=1e-4)


def test_hiding_and_cropping():
    data, _, _ = scene()
    assert data.complete
    flags = np.zeros(data.observed.shape, bool)
    flags[3, 4] = True
    assert data.hide(flags).complete
    flags[3, 4, 0] = False
    assert not data.hide(flags).complete
    hidden = data.hide(flags)
    assert (hidden.values[flags] == 0).all()
    assert hidden.observed.sum() == flags.size - BANDS + 1
    middle = data.middle(11)
    assert middle.values.shape == (11, 11, BANDS)
    np.testing.assert_array_equal(middle.values, data.values[14:25, 18:29])
    assert data.middle(1000).values.shape == data.values.shape


@pytest.mark.parametrize("ratio", [0.01, 0.3])
def test_spike_energy_inverts_the_spiked_covariance(ratio):
    energy = np.array([0.8, 2.0, 10.0, 400.0])
    eigenvalues = (1 + energy) * (1 + ratio / energy)
    np.testing.assert_allclose(_spike_energy(eigenvalues, ratio), energy, rtol=1e-9)
    edge = (1 + np.sqrt(ratio)) ** 2
    assert (_spike_energy(np.array([0.99 * edge, 0.5]), ratio) == 0).all()


def test_spike_energy_of_a_drawn_covariance():
    """Few pixels a band: raw eigenvalues are far too large, the corrected ones are not."""
    rng, bands, pixels, draws = numpy_generator(0, "spikes"), 60, 120, 60
    energy = np.array([30.0, 8.0, 3.0])
    eigenvalues = np.zeros((draws, bands))
    for draw in range(draws):
        values = (rng.standard_normal((pixels, 3)) * np.sqrt(energy)) @ spectra(bands, 3).T
        values += rng.standard_normal((pixels, bands))
        eigenvalues[draw] = np.linalg.eigvalsh(values.T @ values / pixels)[::-1]
    found = _spike_energy(eigenvalues, bands / pixels).mean(0)
    np.testing.assert_allclose(found[:3], energy, rtol=0.08)
    assert eigenvalues[:, 2].mean() - 1 > 1.15 * energy[2]
    assert found[3:].max() < 0.2


def test_subspace_of_a_noisy_cube():
    data, _, truth = scene()
    found = signal_subspace(data, RANK)
    assert largest_angle(found.loadings, truth.loadings) < 2
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(RANK), atol=1e-5)
    np.testing.assert_allclose(found.deviation, truth.deviation, rtol=0.05)


def test_rank_is_found_from_the_noise_edge():
    data, _, _ = scene()
    assert signal_subspace(data, None, smallest=1).rank == RANK
    assert signal_subspace(data, None).rank == 8
    assert signal_subspace(data, 5).rank == 5
    assert signal_subspace(data, 99).rank == BANDS


@pytest.mark.parametrize("share", [0.8, 0.2])
def test_subspace_of_a_smooth_cube_with_holes(share):
    clean = clean_cube(48, 40, BANDS, RANK, seed=2)
    clean = (clean - clean.mean((0, 1))) / 0.01
    observed = numpy_generator(0, "holes").random(clean.shape) < share
    found = signal_subspace(whitened(noisy(clean, 1.0), observed), 8)
    exact = np.linalg.svd(clean.reshape(-1, BANDS), full_matrices=False)[2][:RANK].T
    explained = np.linalg.norm(found.loadings.T @ exact, axis=0)
    assert explained.min() > 0.95, explained


def test_smooth_fill_of_a_constant_and_of_large_holes():
    values = np.full((30, 40, 2), 3.0, np.float32)
    observed = numpy_generator(0, "fill").random(values.shape) < 0.1
    observed[10:22, 12:28] = False
    filled = smooth_fill(whitened(values, observed))
    np.testing.assert_allclose(filled, values, rtol=1e-3)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15])
def test_estimator_against_a_dense_solve(share):
    data, _, subspace = scene(share=share)
    rng = numpy_generator(0, "messages")
    mean = rng.standard_normal((1, RANK, ROWS, COLUMNS)).astype(np.float32)
    precision = np.array([0.5, 2.0, 0.01], np.float32)
    estimator = SubspaceEstimator(data, subspace, CPU)
    found, variance = estimator(torch.from_numpy(mean), torch.from_numpy(precision)[None, :, None, None])
    assert tuple(found.shape) == tuple(variance.shape) == estimator.shape
    for row, column in ((0, 0), (17, 30), (39, 47)):
        kept = data.observed[row, column]
        design = subspace.loadings[kept].astype(np.float64)
        inverse = np.linalg.inv(design.T @ design + np.diag(precision))
        expected = inverse @ (design.T @ data.values[row, column, kept] + precision * mean[0, :, row, column])
        np.testing.assert_allclose(found[0, :, row, column], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(variance[0, :, row, column], np.diag(inverse), rtol=1e-3)


def test_estimator_knows_pixels_without_any_band():
    data, _, subspace = scene()
    gone = np.zeros(data.observed.shape, bool)
    gone[5, 6] = True
    estimator = SubspaceEstimator(data.hide(gone), subspace, CPU)
    assert estimator.measured.sum() == ROWS * COLUMNS - 1
    assert not estimator.measured[0, 0, 5, 6]
    mean = torch.full(estimator.shape, 2.0)
    found, variance = estimator(mean, torch.full((1, RANK, 1, 1), 0.25))
    torch.testing.assert_close(found[0, :, 5, 6], mean[0, :, 5, 6])
    torch.testing.assert_close(variance[0, :, 5, 6], torch.full((RANK,), 4.0))


def test_refit_recovers_spectra_and_means_from_masked_data():
    data, scores, truth = scene(sigma=0.05, share=0.25)
    offset = np.linspace(-3, 3, BANDS, dtype=np.float32)
    data = data.shift(-offset)
    images = torch.from_numpy(scores).permute(2, 0, 1)[None]
    found, shift, turned = refit_subspace(data, images, torch.zeros_like(images))
    assert largest_angle(found.loadings, truth.loadings) < 0.2
    np.testing.assert_allclose(found.deviation, truth.deviation, rtol=0.05)
    mean = scores.mean((0, 1)) @ truth.loadings.T
    np.testing.assert_allclose(shift, offset + mean, atol=0.02)
    rebuilt = turned[0].permute(1, 2, 0).numpy() @ found.loadings.T
    expected = (scores - scores.mean((0, 1))) @ truth.loadings.T
    np.testing.assert_allclose(rebuilt, expected, atol=0.1)


def test_refit_of_uncertain_scores():
    """Posterior means have too little energy; their variance makes up for it."""
    data, _, truth = scene(share=0.5)
    estimator = SubspaceEstimator(data, truth, CPU)
    prior = torch.from_numpy(truth.deviation)[None, :, None, None] ** -2
    mean, variance = estimator(torch.zeros(estimator.shape), prior)
    found, shift, _ = refit_subspace(data, mean, variance)
    assert largest_angle(found.loadings, truth.loadings) < 5
    np.testing.assert_allclose(found.deviation, truth.deviation, rtol=0.1)
    assert np.abs(shift).max() < 0.3


def test_restored_and_measured_samples_are_weighed_by_their_errors():
    rng = numpy_generator(0, "weighed")
    truth = rng.standard_normal((60, 70, 3)).astype(np.float32)
    own_error = np.array([0.0, 1.0, 5.0], np.float32)
    restored = truth + own_error * rng.standard_normal(truth.shape).astype(np.float32)
    observed = np.ones(truth.shape, bool)
    observed[:10] = False
    data = whitened(truth + rng.standard_normal(truth.shape).astype(np.float32), observed)
    mean, spread = weighed(restored, np.full(truth.shape, 0.1, np.float32), data)
    error = np.sqrt(((mean - truth)[10:] ** 2).mean((0, 1)))
    np.testing.assert_allclose(error, own_error / np.sqrt(1 + own_error**2), atol=0.03)
    np.testing.assert_allclose(spread[10:].mean((0, 1))[1:], error[1:], rtol=0.05)
    np.testing.assert_array_equal(mean[:10], restored[:10])
    assert float(spread[20, 20, 0]) == pytest.approx(0.1)
