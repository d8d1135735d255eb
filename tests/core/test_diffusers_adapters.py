"""Networks and schedulers of diffusers: as ours, ours as theirs, and their steps on exact denoisers."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    CosineVP,
    DiscreteVP,
    Mixture,
    OffsetPath,
    Path,
    Preconditioning,
    PredictionType,
    RectifiedFlow,
    Step,
    Trigonometric,
    ancestral,
    betas,
    ddim,
    diffusers_path,
    euler,
    even_times,
    from_diffusers,
    heun,
    index_times,
    karras_times,
    scheduler_sampler,
    to_diffusers,
    zero_terminal_snr,
)

diffusers = pytest.importorskip("diffusers")

DRAW = seeding.generator("mixture")
FACTORS = 0.3 * torch.randn(3, 4, 4, generator=DRAW, dtype=torch.float64)
MIXTURE = Mixture(
    torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64),
    2.0 * torch.randn(3, 4, generator=DRAW, dtype=torch.float64),
    FACTORS @ FACTORS.mT + 0.1 * torch.eye(4, dtype=torch.float64),
)
TABLE = DiscreteVP(betas("scaled_linear", 1000, 0.00085, 0.012))
EMPTY = DiscreteVP(zero_terminal_snr(betas("scaled_linear", 1000, 0.00085, 0.012)))
PATHS: dict[str, tuple[Path, list[float]]] = {
    # 23 does not divide 1000: the previous level must come from the list.
    "table": (TABLE, index_times(1000, 23)),
    "empty": (EMPTY, index_times(1000, 17)),
    "straight": (RectifiedFlow(), even_times(15)),
    "circle": (Trigonometric(), even_times(12, 0.98)),
    "edm": (EDM(), karras_times(14)),
}


def start(path: Path, times: list[float], count: int = 5) -> Tensor:
    noise = torch.randn(count, 4, generator=seeding.generator("start"), dtype=torch.float64)
    return path.sigma(times[0]) * noise


def made(name: str, **settings: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**settings)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_of_diffusers_is_ours_on_every_path(name: str, kind: PredictionType, eta: float) -> None:
    path, times = PATHS[name]
    denoiser, x = MIXTURE.denoiser(path, kind), start(path, times)
    noise = torch.randn(len(times) - 1, *x.shape, generator=seeding.generator("steps"), dtype=torch.float64)
    scheduler = made("DDIM", clip_sample=False, prediction_type="sample")
    found = scheduler_sampler(scheduler, eta=eta)(denoiser, x, times, noise=noise)
    assert_close(found, ddim(denoiser, x, times, eta=eta, noise=noise), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_ddpm_and_ancestral_euler_are_ancestral_sampling(name: str) -> None:
    path, times = PATHS[name]
    denoiser, x = MIXTURE.denoiser(path), start(path, times)
    expected = ancestral(denoiser, x, times, noise=seeding.generator(7))
    found = scheduler_sampler(made("DDPM", clip_sample=False))(denoiser, x, times, noise=seeding.generator(7))
    assert_close(found, expected, rtol=0, atol=1e-9)
    if name in ("empty", "straight"):
        return  # Euler starts at level 4096 there, for infinity: close, but not to five digits
    found = scheduler_sampler(made("EulerAncestralDiscrete"))(denoiser, x, times, noise=seeding.generator(7))
    assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scheduler", ["EulerDiscrete", "FlowMatchEulerDiscrete", "EDMEuler"])
def test_euler_of_diffusers_is_ddim_whatever_its_settings(name: str, scheduler: str) -> None:
    path, times = PATHS[name]
    settings = {
        "EulerDiscrete": {"use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1},
        "FlowMatchEulerDiscrete": {"shift": 3.0, "use_dynamic_shifting": True, "shift_terminal": 0.1},
        "EDMEuler": {"sigma_data": 0.7, "prediction_type": "v_prediction", "sigma_max": 14.0},
    }[scheduler]
    denoiser, x = MIXTURE.denoiser(path), start(path, times)
    found = scheduler_sampler(made(scheduler, **settings))(denoiser, x, times)
    bound = 5e-3 if scheduler != "FlowMatchEulerDiscrete" and float(path.alpha(times[0])) == 0.0 else 1e-5
    assert_close(found, ddim(denoiser, x, times), rtol=0, atol=bound)


def test_heun_of_diffusers_is_ours_on_its_own_path() -> None:
    for name, path, times in (
        ("HeunDiscrete", EDM(), karras_times(9)),
        ("FlowMatchHeunDiscrete", RectifiedFlow(), even_times(9)),
    ):
        denoiser, x = MIXTURE.denoiser(path), start(path, times)
        found = scheduler_sampler(made(name))(denoiser, x, times)
        assert_close(found, heun(denoiser, x, times), rtol=0, atol=1e-5)
    assert_close(euler(denoiser, x, times), ddim(denoiser, x, times), rtol=0, atol=1e-9)


SOLVERS = {
    "dpm++": made("DPMSolverMultistep"),
    "dpm++3": made("DPMSolverMultistep", solver_order=3, use_karras_sigmas=True),
    "single": made("DPMSolverSinglestep", lower_order_final=True),
    "unipc": made("UniPCMultistep", solver_order=2),
    "lms": made("LMSDiscrete"),
    "heun": made("HeunDiscrete"),
    "flow dpm++": made("DPMSolverMultistep", use_flow_sigmas=True, prediction_type="flow_prediction"),
    "flow unipc": made("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction"),
    "flow heun": made("FlowMatchHeunDiscrete", shift=3.0),
    "edm dpm++": made("EDMDPMSolverMultistep"),
}


@functools.cache
def exact_flow() -> Tensor:
    """Where the flow from level 20 leads."""
    return heun(MIXTURE.denoiser(EDM()), start(EDM(), [20.0, 0.0]), karras_times(300, 0.02, 20.0))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", [CosineVP(), RectifiedFlow()], ids=lambda path: type(path).__name__)
def test_higher_orders_beat_the_first_towards_the_exact_flow(solver: str, path: Path) -> None:
    """Levels are those of Karras on every path, scaled alike, so that the flow is the same one."""
    times = karras_times(24, 0.02, 20.0, path=path)
    denoiser, exact = MIXTURE.denoiser(path), exact_flow()
    x = start(EDM(), [20.0, 0.0]) * path.alpha(times[0])
    first = (ddim(denoiser, x, times) - exact).abs().max()
    found = (scheduler_sampler(SOLVERS[solver])(denoiser, x, times) - exact).abs().max()
    assert float(found) < 0.4 * float(first)


def test_samples_do_not_depend_on_their_batch_and_the_scheduler_is_left_alone() -> None:
    path, times = PATHS["straight"]
    scheduler = made("EulerAncestralDiscrete")
    before = dict(scheduler.config)
    sample, x = scheduler_sampler(scheduler), start(path, times)

    def drawn(*items: int) -> Tensor:
        noise = [seeding.generator(0, item) for item in items]
        return sample(MIXTURE.denoiser(path), x[list(items)], times, noise=noise)

    assert_close(drawn(0, 1, 2, 3)[2], drawn(2)[0], rtol=0, atol=1e-6)
    assert_close(drawn(4, 2)[1], drawn(2)[0], rtol=0, atol=1e-6)
    assert dict(scheduler.config) == before
    assert len(scheduler.sigmas) == 1001


@pytest.mark.parametrize("scheduler", ["HeunDiscrete", "DDIM", "FlowMatchEulerDiscrete"])
def test_callbacks_and_conditions_reach_their_place(scheduler: str) -> None:
    path, times = EDM(), karras_times(6, 0.1, 10.0)
    seen: list[Step] = []
    asked: list[tuple[float, int, int]] = []
    exact = MIXTURE.denoiser(path)

    class Watched(type(exact)):  # type: ignore[misc]
        def at_step(self, t: float, index: int, count: int) -> Any:
            asked.append((t, index, count))
            return self

    def model(x: Tensor, t: Tensor, *, label: int) -> Tensor:
        assert label == 4
        return exact.predict(x, t)

    x = start(path, times)
    scheduler_sampler(made(scheduler))(Watched(model, path, "x0"), x, times, callback=seen.append, label=4)
    assert [(step.index, step.t) for step in seen] == list(enumerate(times[:-1]))
    assert asked == [(t, index, 6) for index, t in enumerate(times[:-1])]
    assert_close(seen[0].x, x)
    for step in seen:
        assert_close(step.x0, exact.x0(step.x, step.t))


def test_noise_that_is_missing_and_times_without_an_end_are_refused() -> None:
    path, times = PATHS["straight"]
    denoiser, x = MIXTURE.denoiser(path), start(path, times)
    with pytest.raises(ConfigError, match="pass noise="):
        scheduler_sampler(made("DDPM"))(denoiser, x, times)
    with pytest.raises(ConfigError, match="draws its own noise"):
        scheduler_sampler(made("EulerAncestralDiscrete"))(denoiser, x, times, noise=x[None])
    with pytest.raises(ConfigError, match="clean data"):
        scheduler_sampler(made("DDIM"))(denoiser, x, times[:-1])
    with pytest.raises(ConfigError, match="DDIM"):
        scheduler_sampler(made("LCM"))
    with pytest.raises(ConfigError, match="learned variance"):
        scheduler_sampler(made("DDPM", variance_type="learned_range"))


# Paths and schedulers


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "eps"),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "eps"),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, "x0"),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "v"),
        ({"trained_betas": betas("linear", 1000).tolist()}, "eps"),
    ],
)
def test_tables_of_diffusers_are_read(settings: dict[str, Any], kind: str) -> None:
    scheduler = made("DDIM", **settings)
    path, found = diffusers_path(scheduler)
    assert found == kind
    x0, eps = torch.randn(2, 6, 1, 2, 3, generator=seeding.generator("x"))
    t = torch.tensor([0, 1, 100, 500, 998, 999])
    assert_close(path.add_noise(x0, eps, t), scheduler.add_noise(x0, eps, t), rtol=0, atol=1e-5)


def test_flows_and_levels_of_diffusers_are_read() -> None:
    assert isinstance(diffusers_path(made("FlowMatchEulerDiscrete", shift=3.0))[0], RectifiedFlow)
    flow = made("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction")
    assert diffusers_path(flow)[1] == "velocity"
    assert isinstance(diffusers_path(made("EDMEuler"))[0], EDM)
    with pytest.raises(ConfigError, match="by hand"):
        diffusers_path(made("CMStochasticIterative"))
    with pytest.raises(ConfigError, match="by hand"):
        diffusers_path(made("CogVideoXDDIM", snr_shift_scale=3.0))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "family", ["ddim", "ddpm", "dpm++", "euler", "euler_ancestral", "heun", "lms", "unipc"]
)
def test_a_table_there_and_back(kind: PredictionType, family: str) -> None:
    path = DiscreteVP(betas("cosine", 200))
    back, found = diffusers_path(to_diffusers(path, kind, family=family))
    assert found == kind
    assert isinstance(back, DiscreteVP)
    assert_close(back.alpha_bar, path.alpha_bar, rtol=0, atol=1e-6)


def by_their_loop(scheduler: Any, model: Any, noise: Tensor) -> Tensor:
    """A pipeline's loop: start, scaling and times are the scheduler's."""
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, t) if hasattr(scheduler, "init_noise_sigma") else x, t)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_their_loop_with_our_scheduler_is_our_ddim(kind: PredictionType) -> None:
    noise = torch.randn(6, 4, generator=seeding.generator("loop"), dtype=torch.float64)
    denoiser = MIXTURE.denoiser(TABLE, kind)
    expected = ddim(denoiser, noise, index_times(1000, 20))
    for family, bound in (("ddim", 1e-4), ("euler", 2e-3)):
        scheduler = to_diffusers(TABLE, kind, family=family, steps=20)
        found = by_their_loop(scheduler, lambda x, t: denoiser.predict(x, float(t)), noise)
        # Euler of diffusers starts at sigma_max z, ours at sigma z: 1 part in 400 of the start.
        assert_close(found, expected, rtol=0, atol=bound * 10)


def test_their_loop_on_a_flow_shifts_once() -> None:
    scheduler = to_diffusers(RectifiedFlow(), "velocity", shift=3.0, steps=1000)
    assert float(scheduler.sigmas[-2]) == pytest.approx(3.0 * 0.001 / (1.0 + 2.0 * 0.001), rel=1e-4)
    assert scheduler.config.shift == 3.0
    scheduler = to_diffusers(RectifiedFlow(), "velocity", shift=2.0, steps=10)
    noise = torch.randn(6, 4, generator=seeding.generator("loop"), dtype=torch.float64)
    denoiser = MIXTURE.denoiser(RectifiedFlow(), "velocity")
    found = by_their_loop(scheduler, lambda x, t: denoiser.predict(x, float(t) / 1000.0), noise)
    expected = euler(denoiser, noise, [float(sigma) for sigma in scheduler.sigmas])
    assert_close(found, expected, rtol=0, atol=1e-5)
    assert to_diffusers(RectifiedFlow(), "velocity", family="dpm++", shift=3.0).config.flow_shift == 3.0


def test_their_loop_on_edm_is_our_euler() -> None:
    scheduler = to_diffusers(EDM(), "x0", sigma_data=0.7, sigma_max=20.0, steps=12)
    noise = torch.randn(6, 4, generator=seeding.generator("loop"), dtype=torch.float64)
    exact, precondition = MIXTURE.denoiser(EDM()), Preconditioning(EDM(), 0.7)

    def raw(scaled: Tensor, c_noise: Tensor) -> Tensor:
        sigma = torch.exp(4.0 * c_noise.double())
        skip, out, scale = precondition.coefficients(sigma)
        x = scaled / scale
        return (exact.x0(x, float(sigma)) - skip * x) / out

    times = karras_times(12, 0.002, 20.0)
    expected = euler(exact, (20.0**2 + 1.0) ** 0.5 * noise, times)
    assert_close(by_their_loop(scheduler, raw, noise), expected, rtol=0, atol=1e-4)


def test_what_diffusers_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="divisor of 1000"):
        to_diffusers(TABLE, "eps", family="ddim", steps=30)
    with pytest.raises(ConfigError, match="one of"):
        to_diffusers(TABLE, "eps", family="flow")
    with pytest.raises(ConfigError, match="predict v or x0"):
        to_diffusers(EMPTY, "eps")
    for path, kind in ((TABLE, "velocity"), (CosineVP(), "eps"), (OffsetPath(RectifiedFlow()), "velocity")):
        with pytest.raises(ConfigError, match="no scheduler"):
            to_diffusers(path, kind)  # type: ignore[arg-type]


# Networks


def seeded(network: Any) -> Any:
    for index, parameter in enumerate(network.parameters()):
        draw = seeding.generator("weights", index)
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return network.eval()


def small_unet(**settings: Any) -> Any:
    shape = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "sample_size": (8, 12),
    }
    return shape | {"in_channels": 2, "out_channels": 2} | settings


@torch.no_grad()
def test_an_unet_with_classes_becomes_a_denoiser() -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = seeded(diffusers.UNet2DModel(**small_unet(**blocks, num_class_embeds=3)))
    scheduler = made("DDPM", prediction_type="v_prediction")
    denoiser = from_diffusers(network, scheduler)
    x = torch.randn(2, 2, 8, 12, generator=seeding.generator("x"))
    labels = torch.tensor([0, 2])
    expected = network(x, torch.tensor([500, 500]), class_labels=labels).sample
    assert_close(denoiser.v(x, 500, class_labels=labels), expected)
    step = scheduler.step(expected, 500, x, generator=seeding.generator(0)).pred_original_sample
    assert_close(denoiser.x0(x, 500, class_labels=labels).clamp(-1, 1), step, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_unet_with_text_becomes_a_denoiser() -> None:
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    settings = small_unet(**blocks, cross_attention_dim=6, attention_head_dim=4)
    network = seeded(diffusers.UNet2DConditionModel(**settings)).to(torch.bfloat16)
    denoiser = from_diffusers(network, made("DDIM"))
    x, text = torch.randn(2, 2, 8, 12), torch.randn(2, 5, 6).bfloat16()
    found = denoiser.eps(x, torch.tensor([10, 900]), encoder_hidden_states=text)
    assert found.dtype == torch.float32
    assert_close(found.bfloat16(), network(x.bfloat16(), torch.tensor([10, 900]), text).sample)


@torch.no_grad()
def test_a_transformer_with_a_learned_variance_becomes_a_denoiser() -> None:
    network = seeded(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=2,
            out_channels=4,
            num_layers=1,
            norm_num_groups=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=4,
        )
    )
    denoiser = from_diffusers(network, made("DDIM"))
    x, labels = torch.randn(1, 2, 8, 8), torch.tensor([3])
    expected = network(x, torch.tensor([70]), class_labels=labels).sample[:, :2]
    assert_close(denoiser.eps(x, 70, class_labels=labels), expected)


@torch.no_grad()
def test_a_flow_transformer_takes_its_own_scale_of_time() -> None:
    network = seeded(
        diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=2,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=6,
            caption_projection_dim=8,
            pooled_projection_dim=5,
            out_channels=2,
            pos_embed_max_size=8,
        )
    )
    scheduler = made("FlowMatchEulerDiscrete", shift=3.0)
    x = torch.randn(2, 2, 8, 12)
    cond = {"encoder_hidden_states": torch.randn(2, 3, 6), "pooled_projections": torch.randn(2, 5)}
    t = torch.tensor([0.25, 0.9])
    expected = network(x, timestep=1000 * t, **cond).sample
    assert_close(from_diffusers(network, scheduler).velocity(x, t, **cond), expected)
    scaled = from_diffusers(network, scheduler, time_scale=1.0).velocity(x, 1000 * t, **cond)
    assert scaled.shape == x.shape
    with pytest.raises(ConfigError, match="only flows"):
        from_diffusers(network, made("DDIM"), time_scale=1.0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_networks_are_preconditioned_as_by_their_scheduler(kind: str) -> None:
    scheduler = made("EDMEuler", prediction_type=kind, sigma_data=0.6)
    x, sigma = torch.randn(2, 1, 3, 4), 2.5
    calls: list[Tensor] = []

    def network(scaled: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        calls.extend([scaled, timestep])
        return (scaled.cos(),)

    found = from_diffusers(network, scheduler).x0(x, sigma)
    assert_close(calls[0], scheduler.precondition_inputs(x, sigma))
    assert_close(calls[1], scheduler.precondition_noise(sigma).expand(2))
    assert_close(found, scheduler.precondition_outputs(x, calls[0].cos(), sigma))


def test_continuous_v_networks_are_edm_networks_of_unit_data() -> None:
    """As in Stable Video Diffusion: Euler with `timestep_type` continuous."""
    scheduler = made("EulerDiscrete", prediction_type="v_prediction", timestep_type="continuous")
    x, sigma = torch.randn(2, 1, 3, 4), 2.5
    denoiser = from_diffusers(lambda scaled, timestep, return_dict: (scaled.cos(),), scheduler)
    scheduler.set_timesteps(sigmas=[sigma, 1.0, 0.0])
    scaled = scheduler.scale_model_input(x, scheduler.timesteps[0])
    result = scheduler.step(scaled.cos(), scheduler.timesteps[0], x)
    assert_close(denoiser.x0(x, sigma), result.pred_original_sample)
