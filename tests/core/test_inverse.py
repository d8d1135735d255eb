"""Operators against their dense matrices, and the DDRM transition against closed forms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse import (
    BicubicDownsampling,
    Factor,
    Identity,
    Inpainting,
    LinearOperator,
    SeparableOperator,
    SpectralOperator,
    bicubic_kernel,
    bicubic_matrix,
    ddrm_start,
    ddrm_transition,
)

DOUBLE = torch.float64


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("inverse", *shape), dtype=DOUBLE)


def mask_of(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeding.generator("mask")) < 0.4


def rank_deficient() -> SeparableOperator:
    rows, columns = draws(3, 6), draws(2, 4)
    rows[2] = rows[0] - rows[1]
    return SeparableOperator(Factor.of(rows), Factor.of(columns), 2, DOUBLE)


OPERATORS: dict[str, Callable[[], SpectralOperator]] = {
    "identity": lambda: Identity(2, 3, 5).to(dtype=DOUBLE),
    "mask per channel": lambda: Inpainting(mask_of(3, 4, 5)).to(dtype=DOUBLE),
    "mask shared": lambda: Inpainting(mask_of(4, 5), channels=3).to(dtype=DOUBLE),
    "nothing observed": lambda: Inpainting(torch.zeros(1, 3, 3)).to(dtype=DOUBLE),
    "bicubic 2": lambda: BicubicDownsampling(2, 6, 8, 2, dtype=DOUBLE),
    "bicubic 3": lambda: BicubicDownsampling(3, 9, 6, 1, dtype=DOUBLE),
    "bicubic 4, narrow": lambda: BicubicDownsampling(4, 4, 12, 1, dtype=DOUBLE),
    "rank deficient": rank_deficient,
}


@pytest.fixture(params=OPERATORS)
def operator(request: pytest.FixtureRequest) -> SpectralOperator:
    return OPERATORS[request.param]()


def dense(operator: LinearOperator) -> Tensor:
    """Matrix whose columns are the data of unit images."""
    pixels = int(torch.tensor(operator.image_shape).prod())
    units = torch.eye(pixels, dtype=DOUBLE).reshape(pixels, *operator.image_shape)
    return operator.A(units).flatten(1).T


def test_adjoint(operator: SpectralOperator) -> None:
    x, r = draws(3, *operator.image_shape), draws(3, *operator.data_shape)
    left = (operator.A(x) * r).flatten(1).sum(1)
    assert_close(left, (x * operator.adjoint(r)).flatten(1).sum(1), rtol=0, atol=1e-9)


def test_decomposition(operator: SpectralOperator) -> None:
    x, y = draws(2, *operator.image_shape), draws(2, *operator.data_shape)
    z = operator.to_spectral(x)
    assert_close(operator.from_spectral(z), x)
    assert_close(z.square().sum(), x.square().sum())
    rebuilt = operator.data_from_spectral(operator.spectrum * z)
    assert_close(rebuilt.flatten(1), x.flatten(1) @ dense(operator).T)
    u = operator.data_to_spectral(y)
    assert bool((u[:, ~operator.measured.expand(operator.image_shape)] == 0).all())


def test_pseudo_inverse_and_prox_equal_dense_algebra(operator: SpectralOperator) -> None:
    matrix, (y, z) = dense(operator), (draws(2, *operator.data_shape), draws(2, *operator.image_shape))
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    assert_close(operator.pinv(y).flatten(1), y.flatten(1) @ inverse.T, rtol=0, atol=1e-9)
    rho = 0.3
    system = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=DOUBLE)
    right = y.flatten(1) @ matrix + rho * z.flatten(1)
    expected = torch.linalg.solve(system, right.T).T
    assert_close(operator.prox(z, y, rho).flatten(1), expected, rtol=0, atol=1e-9)


def test_operators_without_a_decomposition_use_conjugate_gradients() -> None:
    matrix = draws(7, 12)

    class Dense(LinearOperator):
        image_shape, data_shape = (1, 3, 4), (7,)

        def A(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ matrix.T

        def adjoint(self, y: Tensor) -> Tensor:
            return (y @ matrix).reshape(-1, *self.image_shape)

    operator, y, z = Dense(), draws(2, 7), draws(2, 1, 3, 4)
    expected = y @ torch.linalg.pinv(matrix).T
    assert_close(operator.pinv(y).flatten(1), expected, rtol=0, atol=1e-8)
    system = matrix.T @ matrix + 0.3 * torch.eye(12, dtype=DOUBLE)
    expected = torch.linalg.solve(system, (y @ matrix + 0.3 * z.flatten(1)).T).T
    assert_close(operator.prox(z, y, 0.3).flatten(1), expected, rtol=0, atol=1e-8)


def test_flat_vectors(operator: SpectralOperator) -> None:
    x, v = draws(2, *operator.image_shape), draws(2, int(torch.tensor(operator.image_shape).prod()))
    assert_close(operator.V(operator.Vt(x)), x.flatten(1))
    assert_close(operator.Vt(operator.V(v)), v)
    singulars = operator.singulars
    count = len(singulars)
    data = operator.U(singulars * operator.Vt(x)[:, :count])
    assert_close(data, operator.flatten_data(operator.A(x)))
    assert_close(operator.Ut(operator.U(v[:, :count])), v[:, :count])
    assert_close(operator.order(operator.arrange(v)), v)


def test_the_order_of_an_inpainting_vector() -> None:
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [1, 0]]])
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    operator = Inpainting(mask)
    assert operator.flatten_data(operator.A(x)).tolist() == [[0, 2, 6, 3]]
    assert operator.Vt(x).tolist() == [[0, 2, 6, 3, 4, 1, 5, 7]]


def test_bicubic_reduction() -> None:
    assert_close(
        bicubic_kernel(2)[4:], torch.tensor([0.43359375, 0.11328125, -0.03515625, -0.01171875]).double()
    )
    for factor, size in ((2, 8), (3, 12), (4, 4), (8, 16), (1, 5)):
        matrix = bicubic_matrix(factor, size)
        assert matrix.shape == (size // factor, size)
        assert_close(matrix.sum(1), torch.ones(size // factor, dtype=DOUBLE))
        values = Factor.of(matrix).S
        assert float(values.min()) > 0.03
    ramp = bicubic_matrix(2, 32) @ torch.arange(32, dtype=DOUBLE)
    assert_close(ramp[3:-3], 2 * torch.arange(16, dtype=DOUBLE)[3:-3] + 0.5)


def test_small_singular_values_count_as_nothing_measured_accurately() -> None:
    rows = torch.diag(torch.tensor([1.0, 0.02], dtype=DOUBLE))
    operator = SeparableOperator(Factor.of(rows), Factor.of(torch.eye(2)), 1, DOUBLE)
    assert operator.singulars.tolist() == [1, 1, 0, 0]
    assert bool(torch.isfinite(operator.pinv(draws(1, 1, 2, 2))).all())


@pytest.mark.parametrize(
    "make",
    [
        lambda: BicubicDownsampling(3, 8, 9, 1),
        lambda: BicubicDownsampling(0, 8, 8, 1),
        lambda: Inpainting(torch.ones(4, 4)),
        lambda: Inpainting(torch.ones(2, 4, 4), channels=3),
        lambda: Identity(1, 2, 2).check_data(torch.zeros(1, 1, 2, 3)),
        lambda: Identity(1, 2, 2).check_data(torch.full((1, 1, 2, 2), torch.nan)),
    ],
)
def test_errors_name_the_operator(make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"BicubicDownsampling|Inpainting|Identity"):
        make()


def state(operator: SpectralOperator, sigma_y: float) -> tuple[Tensor, ...]:
    truth, x0, eps, noise = draws(4, 2, *operator.image_shape)
    y = operator.A(truth) + sigma_y * draws(2, *operator.data_shape)
    return y, operator.data_to_spectral(y), x0, eps, noise


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
def test_transition_equals_the_table_coefficient_by_coefficient(
    operator: SpectralOperator, sigma_y: float, strict: bool
) -> None:
    _, data, x0, eps, noise = state(operator, sigma_y)
    alpha, sigma, eta, eta_b = 0.9, 0.45, 0.85, 0.7
    q = sigma / alpha
    found = ddrm_transition(operator, x0, eps, data, alpha, sigma, sigma_y, noise, eta, eta_b, strict)
    v, e, u, n = (
        operator.order(part) for part in (operator.to_spectral(x0), operator.to_spectral(eps), data, noise)
    )
    expected = v + q * (1 - eta**2) ** 0.5 * e + q * eta * n
    for i, s in enumerate(operator.singulars.tolist()):
        if s * q > sigma_y:
            spread = (q**2 - eta_b**2 * sigma_y**2 / s**2) ** 0.5
            expected[:, i] = eta_b * u[:, i] / s + (1 - eta_b) * v[:, i] + spread * n[:, i]
        elif s * q < sigma_y and (s > 0 or strict):
            rest = (u[:, i] - s * v[:, i]) / sigma_y
            expected[:, i] = v[:, i] + q * (1 - eta**2) ** 0.5 * rest + q * eta * n[:, i]
    assert_close(operator.Vt(found / alpha), expected)


def test_noise_free_data_are_met_exactly(operator: SpectralOperator) -> None:
    y, data, x0, eps, noise = state(operator, 0.0)
    last = ddrm_transition(operator, x0, eps, data, 1.0, 0.0, 0.0, noise)
    assert float((operator.A(last) - y).abs().amax() if y.numel() else 0.0) < 1e-6
    strict = ddrm_transition(operator, x0, eps, data, 1.0, 0.0, 0.0, noise, strict=True)
    assert_close(strict, x0)


def test_start_has_the_marginals_of_the_forward_process(operator: SpectralOperator) -> None:
    _, data, *_, noise = state(operator, 0.2)
    q = 3.0
    found = operator.Vt(q * ddrm_start(operator, data, 0.2, q, noise))
    u, n = operator.order(data), operator.order(noise)
    expected = q * n
    for i, s in enumerate(operator.singulars.tolist()):
        if s * q > 0.2:
            expected[:, i] = u[:, i] / s + (q**2 - 0.04 / s**2) ** 0.5 * n[:, i]
    assert_close(found, expected)


def test_denoising_sees_the_data_plus_what_noise_is_missing() -> None:
    operator = Identity(1, 4, 4).to(dtype=DOUBLE)
    y, data, x0, eps, noise = state(operator, 0.2)
    found = ddrm_transition(operator, x0, eps, data, 0.8, 0.6, 0.2, noise, eta=1.0, strict=True)
    assert_close(found, 0.8 * (y + (0.75**2 - 0.2**2) ** 0.5 * noise))


def test_a_noise_level_a_channel_equals_channels_by_themselves() -> None:
    levels = (0.0, 0.1, 0.6)
    operator = BicubicDownsampling(2, 4, 6, 3, dtype=DOUBLE)
    _, data, x0, eps, noise = state(operator, 0.1)
    whole = torch.tensor(levels, dtype=DOUBLE).reshape(3, 1, 1)
    found = ddrm_transition(operator, x0, eps, data, 0.9, 0.4, whole, noise)
    start = ddrm_start(operator, data, whole, 2.0, noise)
    single = BicubicDownsampling(2, 4, 6, 1, dtype=DOUBLE)
    for i, level in enumerate(levels):
        parts = [part[:, i : i + 1] for part in (x0, eps, data)]
        alone = ddrm_transition(single, *parts, 0.9, 0.4, level, noise[:, i : i + 1])
        assert_close(found[:, i : i + 1], alone)
        assert_close(start[:, i : i + 1], ddrm_start(single, parts[2], level, 2.0, noise[:, i : i + 1]))


def test_levels_may_be_tensors_and_nothing_depends_on_the_type() -> None:
    for dtype in (torch.float32, DOUBLE):
        operator = BicubicDownsampling(2, 6, 4, 2, dtype=DOUBLE)
        parts = [part.to(dtype) for part in state(operator, 0.1)[1:]]
        operator = operator.to(dtype=dtype)
        numbers = ddrm_transition(operator, parts[1], parts[2], parts[0], 0.9, 0.4, 0.1, parts[3])
        tensors = [torch.tensor(level, dtype=dtype) for level in (0.9, 0.4, 0.1)]
        assert_close(ddrm_transition(operator, parts[1], parts[2], parts[0], *tensors, parts[3]), numbers)
        assert numbers.dtype == dtype
