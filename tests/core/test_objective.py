"""The training objective, paths towards a data-dependent prior, and joint diffusion."""

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
    Denoiser,
    DiscreteVP,
    EDMWeight,
    Joint,
    LinearVP,
    MinSNR,
    Mixture,
    Modality,
    OffsetDenoiser,
    OffsetPath,
    Path,
    Plain,
    Preconditioning,
    PredictionType,
    RectifiedFlow,
    Trigonometric,
    betas,
    denoising_errors,
    denoising_loss,
    integrate_grid,
    pack,
    target,
    unpack,
    zero_terminal_snr,
)
from diffusion_suite.core.schedulers.grids import even_times
from diffusion_suite.core.schedulers.samplers import ddim

KINDS: tuple[PredictionType, ...] = ("eps", "x0", "v", "velocity", "score")
T = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("data", *shape), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_the_perfect_network_is_zero_and_of_another_its_error(kind: PredictionType) -> None:
    x0, eps, path = data(3, 2, 4, 6), data(3, 2, 4, 6).flip(0), CosineVP()
    wanted = target(x0, eps, T, path, kind)
    perfect = Denoiser(lambda x, t: wanted, path, kind)
    assert float(denoising_loss(perfect, x0, T, eps, MinSNR())) == 0.0
    off = Denoiser(lambda x, t: wanted + t.reshape(-1, 1, 1, 1), path, kind)
    assert_close(denoising_errors(off, x0, T, eps), T**2)
    assert float(denoising_loss(off, x0, T, eps)) == pytest.approx(float((T**2).mean()))


def test_networks_of_all_kinds_that_agree_have_one_loss() -> None:
    x0, path = data(3, 5), LinearVP()
    guess = data(3, 5).flip(1)
    losses = []
    for kind in KINDS:

        def model(x: Tensor, t: Tensor, kind: PredictionType = kind) -> Tensor:
            alpha, sigma = path.at(t, x)
            return target(guess, (x - alpha * guess) / sigma, t, path, kind)

        denoiser = Denoiser(model, path, kind)
        losses.append(denoising_errors(denoiser, x0, T, seeding.generator("noise"), MinSNR(5.0)))
    snr = torch.exp(path.logsnr(T)).clamp(max=5.0)
    for loss in losses:
        assert_close(loss, snr * (guess - x0).square().mean(1), rtol=1e-9, atol=0)


def test_the_loss_of_an_item_does_not_depend_on_its_batch() -> None:
    x0 = data(4, 1, 3, 5).float()
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    denoiser = Denoiser(lambda x, t: x.tanh(), RectifiedFlow(), "velocity")

    def errors(*items: int) -> Tensor:
        generators = [seeding.generator(0, item) for item in items]
        return denoising_errors(denoiser, x0[list(items)], t[list(items)], generators, MinSNR())

    assert_close(errors(0, 1, 2, 3)[2], errors(2)[0])


def test_only_counted_values_count() -> None:
    x0 = data(2, 1, 3, 4)
    where = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    where[..., :2] = True
    wrong = torch.where(where, 1.0, 100.0)
    denoiser = Denoiser(lambda x, t: x0 + wrong, RectifiedFlow(), "x0")
    found = denoising_errors(denoiser, x0, T[:2], data(2, 1, 3, 4), where=where)
    assert_close(found, torch.ones(2, dtype=torch.float64))
    found = denoising_errors(denoiser, x0, T[:2], data(2, 1, 3, 4), where=where[:, :, :1])
    assert_close(found, torch.ones(2, dtype=torch.float64))


def test_preconditioned_networks_train_on_a_unit_target() -> None:
    """With the EDM weight the loss is the squared error of the raw output, whatever the level."""
    x0, levels = data(3, 4), torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    eps = data(3, 4).flip(0)
    precondition = Preconditioning(EDM(), 0.5)
    skip, out, _ = (value[:, None] for value in precondition.coefficients(levels))
    raw = (x0 - skip * (x0 + levels[:, None] * eps)) / out
    denoiser = precondition(lambda x, t: raw + 0.3)
    assert_close(denoising_errors(denoiser, x0, levels, eps, EDMWeight(0.5)), torch.full((3,), 0.09).double())


def test_eps_with_zero_terminal_snr_is_refused() -> None:
    path = DiscreteVP(zero_terminal_snr(betas("linear", 10)))
    denoiser = Denoiser(lambda x, t: x, path, "eps")
    with pytest.raises(ConfigError, match="predict v or x0"):
        denoising_loss(denoiser, data(2, 3), torch.tensor([1, 9]), data(2, 3))
    finite = denoising_loss(Denoiser(lambda x, t: x, path, "v"), data(2, 3), torch.tensor([1, 9]), data(2, 3))
    assert bool(torch.isfinite(finite))


MIXTURE = Mixture(
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[1.0, -1.0], [-1.0, 0.5]], dtype=torch.float64),
    0.1 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
)
MU = torch.tensor([[2.0, -3.0], [0.5, 1.0], [0.0, 4.0]], dtype=torch.float64)


def full_network(path: OffsetPath, kind: PredictionType) -> Any:
    """The exact network on x_t = alpha x0 + k mu + sigma eps."""

    def model(x_t: Tensor, t: Tensor, *, mu: Tensor) -> Tensor:
        k, d_k = (value.to(x_t).reshape(-1, 1) for value in (path.k(t), path.d_k(t)))
        alpha, sigma = path.at(t, x_t)
        x0 = MIXTURE.x0(x_t - k * mu, path.alpha(t), path.sigma(t))
        output = target(x0, (x_t - k * mu - alpha * x0) / sigma, t, path, kind)
        return output + d_k * mu if kind == "velocity" else output

    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", ["constant", "complement"])
def test_offset_networks_are_denoisers_of_the_centred_state(kind: PredictionType, offset: Any) -> None:
    path = OffsetPath(LinearVP(), offset)
    denoiser = OffsetDenoiser(full_network(path, kind), path, kind)
    plain = MIXTURE.denoiser(LinearVP())
    x = data(3, 2)
    for view in ("x0", "eps", "v", "velocity", "score"):
        assert_close(getattr(denoiser, view)(x, T, mu=MU), getattr(plain, view)(x, T), rtol=1e-9, atol=1e-9)
    start = data(3, 2)
    found = ddim(denoiser, start, even_times(10), mu=MU)
    assert_close(found, ddim(plain, start, even_times(10)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_offset_networks_train_by_the_common_objective(kind: PredictionType) -> None:
    path, x0, eps = OffsetPath(RectifiedFlow()), data(3, 2), data(3, 2).flip(0)
    seen: list[Tensor] = []

    def model(x_t: Tensor, t: Tensor, *, mu: Tensor) -> Tensor:
        seen.append(x_t)
        wanted = target(x0, eps, t, path, kind)
        return wanted + mu if kind == "velocity" else wanted

    denoiser = OffsetDenoiser(model, path, kind)
    assert float(denoising_loss(denoiser, x0, T, eps, mu=MU)) == pytest.approx(0.0, abs=1e-20)
    t = T[:, None]
    assert_close(seen[0], (1.0 - t) * x0 + t * MU + t * eps)
    assert_close(path.centred(seen[0], T, MU), path.add_noise(x0, eps, T))
    assert_close(path.shifted(path.add_noise(x0, eps, T), T, MU), seen[0])


def test_offset_derivative_is_that_of_the_offset() -> None:
    for path in (OffsetPath(CosineVP(), "complement"), OffsetPath(CosineVP(), "constant")):
        step = 1e-6
        slope = (path.k(T + step) - path.k(T - step)) / (2.0 * step)
        assert_close(path.d_k(T), slope, rtol=1e-7, atol=1e-9)
        assert_close(path.t_of_logsnr(path.logsnr(T)), T)


def test_bad_offsets_are_refused() -> None:
    with pytest.raises(ConfigError, match="complement"):
        OffsetPath(CosineVP(), "half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mu="):
        OffsetDenoiser(lambda x, t, mu: x, OffsetPath(CosineVP()), "x0").x0(data(3, 2), T)


SHAPES = {"image": (1, 2, 3), "depth": (4,)}


def modalities(first: Path, second: Path) -> dict[str, Modality]:
    return {"image": Modality(first, "velocity"), "depth": Modality(second, "v", MinSNR(), share=0.5)}


def test_joint_loss_is_the_shared_sum_of_the_modalities() -> None:
    kinds = modalities(RectifiedFlow(), CosineVP())
    x0 = {name: data(3, *shape) for name, shape in SHAPES.items()}
    noise = {name: data(3, *shape).flip(0) for name, shape in SHAPES.items()}

    def network(x_t: dict[str, Tensor], t: Tensor, *, shift: float) -> dict[str, Tensor]:
        return {name: value * shift for name, value in x_t.items()}

    joint = Joint(network, kinds)
    errors = joint.errors(x0, T, noise, shift=0.7)
    for name, kind in kinds.items():
        alone = Denoiser(lambda x, t: 0.7 * x, kind.path, kind.prediction_type)
        expected = denoising_errors(alone, x0[name], T, noise[name], kind.weight)
        assert_close(errors[name], expected)
    total = errors["image"].mean() + 0.5 * errors["depth"].mean()
    assert_close(joint.loss(x0, T, noise, shift=0.7), total)
    assert torch.isfinite(joint.loss(x0, T, seeding.generator(0), shift=0.7))
    with pytest.raises(ValueError, match="dict of noise"):
        joint.errors(x0, T, noise["image"], shift=0.7)


def exact(kinds: dict[str, Modality], mixtures: dict[str, Mixture]) -> Any:
    def network(x_t: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {
            name: mixtures[name].denoiser(kind.path, kind.prediction_type).predict(x_t[name], t)
            for name, kind in kinds.items()
        }

    return network


def gaussian(values: int, mean: float) -> Mixture:
    eye = torch.eye(values, dtype=torch.float64)
    return Mixture(torch.ones(1).double(), torch.full((1, values), mean).double(), 0.3 * eye[None])


@pytest.mark.parametrize("same", [True, False])
def test_packed_modalities_are_sampled_as_alone(same: bool) -> None:
    first = RectifiedFlow()
    kinds = modalities(first, first if same else Trigonometric())
    mixtures = {"image": gaussian(6, 1.0), "depth": gaussian(4, -2.0)}
    denoiser = Joint(exact(kinds, mixtures), kinds).denoiser(SHAPES)
    start = {name: data(3, *shape) for name, shape in SHAPES.items()}
    times = even_times(8)

    def flow(one: Denoiser, x: Tensor) -> Tensor:
        return integrate_grid(one.velocity, x, times, method="euler")

    found = unpack(flow(denoiser, pack(start)), SHAPES)
    for name, kind in kinds.items():
        assert found[name].shape == (3, *SHAPES[name])
        alone = mixtures[name].denoiser(kind.path, kind.prediction_type)
        assert_close(found[name], flow(alone, start[name]), rtol=1e-9, atol=1e-9)
    if same:
        packed = unpack(ddim(denoiser, pack(start), times), SHAPES)
        alone = mixtures["depth"].denoiser(first, "x0")
        assert_close(packed["depth"], ddim(alone, start["depth"], times), rtol=1e-9, atol=1e-9)
    else:
        x = pack(start)
        x0, eps = denoiser.both(x, T)
        assert_close(denoiser.path.add_noise(x0, eps, T), x)
        with pytest.raises(ConfigError, match="common log-SNR"):
            denoiser.path.t_of_logsnr(0.0)


def test_unweighted_and_plain_weights_agree() -> None:
    x0, path = data(3, 4), RectifiedFlow()
    denoiser = Denoiser(lambda x, t: x.sin(), path, "velocity")
    bare = denoising_errors(denoiser, x0, T, seeding.generator(1))
    assert_close(bare, denoising_errors(denoiser, x0, T, seeding.generator(1), Plain("velocity")))
