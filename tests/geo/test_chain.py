"""The reverse process: settings, warm-up, stopping, seeds, and the published recipe on small cubes."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.inverse import Identity
from diffusion_suite.geo.restoration.chain import (
    ChainConfig,
    ChainStep,
    Fit,
    reverse_process,
    total_variation,
)
from diffusion_suite.geo.restoration.network import VS2M
from diffusion_suite.geo.restoration.paper import PUBLISHED, measurement, restore_paper

SHORT = ChainConfig(steps=30, start=11, learning_rate=3e-3, beta_start=1e-3, beta_end=0.05)


def scene(height: int = 12, width: int = 16, bands: int = 5) -> Tensor:
    """A smooth cube of rank two in [0, 1]."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    images = torch.stack([rows * columns, (1 - rows) * (0.5 + 0.5 * torch.cos(6 * columns))], -1)
    spectra = torch.stack([torch.linspace(0.2, 0.9, bands), torch.linspace(0.8, 0.1, bands)])
    return images @ spectra


def noisy(cube: Tensor, sigma: float) -> Tensor:
    return cube + sigma * torch.randn(cube.shape, generator=seeding.generator("noise"))


def test_published_settings() -> None:
    optimised = {task: config.steps - config.start + 1 for task, config in PUBLISHED.items()}
    assert optimised == {"denoise": 1001, "complete": 1501, "sr": 501}
    for steps, noisiest, first in ((1000, 3.44, 0.972), (2000, 12.8, 1.665), (3000, 46.1, 2.515)):
        config = ChainConfig(steps=steps)
        kept = config.path().alpha_bar[torch.tensor([config.indices()[0], steps // 2]) + 1]
        expected = torch.tensor([noisiest, first], dtype=torch.float64)
        assert_close(((1 - kept) / kept).sqrt(), expected, rtol=3e-3, atol=0)


def test_visited_steps_end_at_the_clean_image() -> None:
    assert ChainConfig(steps=4).indices() == [3, 2, 1, 0, -1]
    assert ChainConfig(steps=10, visited=5).indices() == [8, 6, 4, 2, 0, -1]
    with pytest.raises(ConfigError):
        ChainConfig(steps=4, visited=5).indices()


def test_total_variation_of_ramps() -> None:
    ramp = torch.arange(4.0)
    cube = ramp[:, None, None] + 2 * torch.arange(5.0)[:, None] + 3 * torch.arange(6.0)
    assert_close(total_variation(cube), torch.tensor(2 * (4 + 9 + 0.5 * 1.0)))


def test_a_denoised_cube_is_closer_to_the_truth() -> None:
    clean = scene()
    degraded = noisy(clean, 0.15)
    config = ChainConfig(steps=120, start=21, learning_rate=5e-3, beta_start=1e-3, beta_end=0.05)
    restored, log = restore_paper(degraded, "denoise", sigma=0.15, settings=config, rank=2)
    assert restored.shape == clean.shape
    assert restored.dtype == clean.dtype
    assert len(log["loss"]) == 100
    assert float((restored - clean).square().mean()) < 0.3 * float((degraded - clean).square().mean())


def test_every_task_any_shape_and_seed() -> None:
    clean = scene(10, 8, 3)
    mask = torch.rand(10, 8, 3, generator=seeding.generator("mask")) < 0.6
    masked = torch.where(mask, clean, torch.nan)
    first, _ = restore_paper(masked, "complete", sigma=0.05, seed=4, settings=SHORT, rank=2)
    again, _ = restore_paper(clean, "complete", mask=mask, sigma=0.05, seed=4, settings=SHORT, rank=2)
    other, _ = restore_paper(masked, "complete", sigma=0.05, seed=5, settings=SHORT, rank=2)
    assert torch.equal(first, again), "what lies under the mask is not looked at"
    assert not torch.equal(first, other)
    level = torch.tensor([0.01, 0.1, 0.2])
    wide, _ = restore_paper(clean, "sr", sigma=level, factor=3, settings=SHORT, rank=2)
    assert wide.shape == (30, 24, 3)
    assert bool(torch.isfinite(wide).all())
    assert bool(((wide >= 0) & (wide <= 1)).all())


def test_the_warm_up_predicts_itself_and_a_callback_may_stop() -> None:
    seen: list[ChainStep] = []

    def watch(step: ChainStep) -> bool:
        seen.append(step)
        return step.index == 13

    restored, log = restore_paper(scene(), "denoise", settings=SHORT, rank=1, callback=watch)
    assert [step.loss is None for step in seen] == [True] * 10 + [False] * 3
    assert len(log["loss"]) == 3
    assert seen[0].total == 30
    assert_close(restored, seen[-1].estimate.permute(1, 2, 0))


def test_inner_steps_and_diagnostics_are_logged() -> None:
    config = ChainConfig(steps=6, start=4, inner=3, diagnostics=True, beta_start=1e-2, beta_end=0.3, tv=0.1)
    _, log = restore_paper(scene(8, 8, 2), "denoise", settings=config, rank=1)
    assert len(log["loss"]) == 9
    assert len(log["noise_divergence"]) == 3
    assert min(log["noise_divergence"]) >= 0


def test_total_variation_enters_the_loss_only_when_asked() -> None:
    target, scale = scene(8, 8, 3).permute(2, 0, 1), torch.tensor(0.9)
    losses = []
    for weight in (0.0, 0.5):
        network = VS2M(1, 8, 8, 3, hidden=(4,))
        cube = network().detach()
        _, found, loss = Fit(network, ChainConfig(tv=weight)).step(target, scale, torch.zeros_like(target))
        assert torch.equal(found, cube)
        losses.append(float(loss - weight * total_variation(2 * cube - 1)))
    assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_half_precision_stays_near() -> None:
    target, scale = scene(16, 16, 3).permute(2, 0, 1), torch.tensor(0.9)
    losses = []
    for precision in ("full", "bf16"):
        fit = Fit(VS2M(2, 16, 16, 3, hidden=(8,)), ChainConfig(precision=precision, learning_rate=3e-3))
        average = torch.zeros_like(target)
        for _ in range(20):
            average, cube, loss = fit.step(target, scale, average)
        assert cube.dtype == torch.float32
        losses.append(float(loss))
    assert_close(losses[1], losses[0], rtol=0.2, atol=0)


def test_one_graph_holds_the_whole_step() -> None:
    fit = Fit(VS2M(2, 16, 16, 3, hidden=(8,)), ChainConfig())
    target = scene(16, 16, 3).permute(2, 0, 1)
    explained = torch._dynamo.explain(fit._forward)(target, torch.tensor(0.9))
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("denoise", {"mask": torch.ones(5, 5)}),
        ("sr", {}),
        ("sr", {"factor": 2, "mask": torch.zeros(8, 8)}),
        ("sr", {"factor": 0}),
    ],
)
def test_bad_measurements_are_refused(task: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InputError):
        measurement(scene(8, 8, 2), task, **arguments)  # type: ignore[arg-type]


def test_data_of_another_shape_are_refused_before_any_work() -> None:
    network, noise = VS2M(1, 8, 8, 2, hidden=(4,)), seeding.generator(0)
    for y in (torch.zeros(1, 2, 8, 9), torch.full((1, 2, 8, 8), torch.inf)):
        with pytest.raises(InputError, match="Identity"):
            reverse_process(network, Identity(2, 8, 8), y, 0.1, SHORT, noise)
