"""Operators of the inverse room against their dense matrices; user-given operators and what is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.inverse import (
    AveragePooling,
    Blur,
    Composed,
    Compressive,
    Dense,
    FunctionOperator,
    Grayscale,
    Identity,
    Inpainting,
    LinearOperator,
    SpectralOperator,
    SpectralResponse,
    adapt,
    check_adjoint,
    matrix_of,
)

DOUBLE = torch.float64
KERNEL = torch.tensor([1.0, 3.0, 4.0, 2.0, -0.5], dtype=DOUBLE) / 10


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("operators", *shape), dtype=DOUBLE)


SPECTRAL: dict[str, Callable[[], SpectralOperator]] = {
    "dense wide": lambda: Dense(draws(3, 8)),
    "dense tall": lambda: Dense(draws(9, 4)),
    "dense of images": lambda: Dense(draws(5, 12), (2, 3, 2), (1, 5)),
    "dense rank deficient": lambda: Dense(draws(4, 2) @ draws(2, 6)),
    "identity of vectors": lambda: Identity(7).to(dtype=DOUBLE),
    "mask of vectors": lambda: Inpainting(draws(7) > 0, shape=(7,)).to(dtype=DOUBLE),
    "mask of sequences": lambda: Inpainting(draws(6) > 0, shape=(2, 6)).to(dtype=DOUBLE),
    "pool": lambda: AveragePooling(2, 6, 8, 3, dtype=DOUBLE),
    "pool, ragged": lambda: AveragePooling(3, 7, 5, 2, dtype=DOUBLE),
    "blur zero": lambda: Blur(KERNEL, 4, 6, 3, "zero", dtype=DOUBLE),
    "blur circular": lambda: Blur(KERNEL, 6, 5, 2, "circular", dtype=DOUBLE),
    "blur reflect": lambda: Blur(KERNEL, 5, 4, 2, "reflect", dtype=DOUBLE),
    "blur wider than the image": lambda: Blur(draws(9), 2, 3, 1, "reflect", dtype=DOUBLE),
    "blur and downsample": lambda: Blur(KERNEL, 6, 9, 2, "reflect", factor=3, dtype=DOUBLE),
    "two kernels": lambda: Blur(KERNEL, 4, 5, 1, column_kernel=KERNEL[1:4], dtype=DOUBLE),
    "grey": lambda: Grayscale(3, 4, 5, dtype=DOUBLE),
    "grey, weighted": lambda: Grayscale(3, 4, weights=draws(3), dtype=DOUBLE),
    "response": lambda: SpectralResponse(draws(2, 5), 3, 4),
    "response to more bands": lambda: SpectralResponse(draws(6, 4), 3, 2),
    "compressive": lambda: Compressive(5, (2, 4, 4)).to(dtype=DOUBLE),
    "compressive vector": lambda: Compressive(8, (16,), seed=3).to(dtype=DOUBLE),
}
OTHERS: dict[str, Callable[[], LinearOperator]] = {
    "composed": lambda: Composed(Blur(KERNEL, 3, 4, 1, dtype=DOUBLE), AveragePooling(2, 6, 8, 1, DOUBLE)),
    "function": lambda: FunctionOperator(lambda x: x[:, :, ::2].cumsum(-1), (2, 3, 4)),
    "function with adjoint": lambda: FunctionOperator(
        lambda x: 2 * x.flip(1), (5,), adjoint=lambda y: 2 * y.flip(1)
    ),
}


@pytest.fixture(params=SPECTRAL)
def spectral(request: pytest.FixtureRequest) -> SpectralOperator:
    return SPECTRAL[request.param]()


@pytest.mark.parametrize("name", [*SPECTRAL, *OTHERS])
def test_adjoint_pinv_and_prox_equal_dense_algebra(name: str) -> None:
    operator = {**SPECTRAL, **OTHERS}[name]()
    x, r = draws(3, *operator.image_shape), draws(3, *operator.data_shape)
    left = (operator.A(x) * r).flatten(1).sum(1)
    assert_close(left, (x * operator.adjoint(r)).flatten(1).sum(1), rtol=0, atol=1e-9)
    assert operator.A(x[:1]).shape == (1, *operator.data_shape)
    assert_close(operator.A(x)[1:2], operator.A(x[1:2]))
    matrix = matrix_of(operator)
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    assert_close(operator.pinv(r).flatten(1), r.flatten(1) @ inverse.T, rtol=1e-7, atol=1e-7)
    system = matrix.T @ matrix + 0.3 * torch.eye(matrix.shape[1], dtype=DOUBLE)
    expected = torch.linalg.solve(system, (r.flatten(1) @ matrix + 0.3 * x.flatten(1)).T).T
    assert_close(operator.prox(x, r, 0.3).flatten(1), expected, rtol=0, atol=1e-9)


def test_decomposition(spectral: SpectralOperator) -> None:
    x, y = draws(2, *spectral.image_shape), draws(2, *spectral.data_shape)
    z = spectral.to_spectral(x)
    assert_close(spectral.from_spectral(z), x)
    assert_close(z.square().sum(), x.square().sum())
    assert_close(spectral.A(x).flatten(1), x.flatten(1) @ matrix_of(spectral).T)
    u = spectral.data_to_spectral(y)
    assert bool((u[:, ~spectral.measured.expand(spectral.image_shape)] == 0).all())
    assert_close(spectral.data_to_spectral(spectral.data_from_spectral(u)), u)


def test_singular_values_are_those_of_the_matrix(spectral: SpectralOperator) -> None:
    expected = torch.linalg.svdvals(matrix_of(spectral))
    found = spectral.singulars.sort(descending=True).values
    size = min(len(found), len(expected))
    assert_close(found[:size], expected[:size], rtol=0, atol=1e-12)
    assert float(torch.cat([found[size:], expected[size:]]).sum()) < 1e-12


def test_flat_vectors(spectral: SpectralOperator) -> None:
    x = draws(2, *spectral.image_shape)
    assert_close(spectral.V(spectral.Vt(x)), x.flatten(1))
    singulars = spectral.singulars
    data = spectral.U(singulars * spectral.Vt(x)[:, : len(singulars)])
    assert_close(data, spectral.flatten_data(spectral.A(x)))
    assert_close(spectral.unflatten_data(data), spectral.A(x))


@pytest.mark.parametrize("border", ["zero", "circular", "reflect"])
@pytest.mark.parametrize("factor", [1, 2])
def test_blur_is_the_convolution_with_all_taps(border: str, factor: int) -> None:
    x = draws(2, 3, 7, 6)
    mode = {"zero": "constant"}.get(border, border)
    kernel = (KERNEL[:, None] * KERNEL).expand(3, 1, 5, 5)
    expected = conv2d(pad(x, (2, 2, 2, 2), mode=mode), kernel, groups=3)[:, :, ::factor, ::factor]
    assert_close(Blur(KERNEL, 7, 6, 3, border, factor, dtype=DOUBLE).A(x), expected)


def test_pooling_averages_what_a_ragged_block_holds() -> None:
    x = draws(1, 2, 7, 5)
    expected = avg_pool2d(x, 3, ceil_mode=True, count_include_pad=False)
    assert_close(AveragePooling(3, 7, 5, 2, DOUBLE).A(x), expected)


def test_grey_is_the_mean_and_a_response_mixes_bands() -> None:
    x, matrix = draws(2, 3, 4, 5), draws(2, 3)
    assert_close(Grayscale(3, 4, 5, dtype=DOUBLE).A(x), x.mean(1, keepdim=True))
    assert_close(SpectralResponse(matrix, 4, 5).A(x), torch.einsum("ij,bjhw->bihw", matrix, x))


def test_compressive_measurements_are_keyed_and_hold_the_mean() -> None:
    x = draws(2, 3, 4, 8)
    first, second = Compressive(9, (3, 4, 8)), Compressive(9, (3, 4, 8), seed=1)
    assert_close(first.to(dtype=DOUBLE).A(x), Compressive(9, (3, 4, 8)).to(dtype=DOUBLE).A(x))
    assert not torch.equal(first.shuffle, second.shuffle)
    assert_close(first.A(x)[..., 0], x.flatten(2).mean(2) * 32**0.5)
    with pytest.raises(InputError, match=r"20 pixels .* not a power of two; crop or pad .* 32"):
        Compressive(3, (3, 4, 5))


def test_a_small_singular_value_can_be_dropped() -> None:
    wide = torch.ones(5, dtype=DOUBLE) / 5
    kept, dropped = (Blur(wide, 6, 6, 1, smallest=smallest, dtype=DOUBLE) for smallest in (1e-14, 0.2))
    assert float(dropped.singulars[dropped.singulars > 0].min()) > 0.01
    assert (kept.singulars > 0).sum() > (dropped.singulars > 0).sum()


def test_composition_moves_as_a_whole() -> None:
    operator = OTHERS["composed"]()
    assert isinstance(operator, Composed)
    x = draws(2, 1, 6, 8)
    assert_close(operator.A(x), operator.outer.A(operator.inner.A(x)))
    assert operator.to(dtype=torch.float32).A(x.float()).dtype == torch.float32
    assert_close(Dense.of(operator).A(x), operator.A(x))
    with pytest.raises(InputError, match="AveragePooling gives data"):
        Composed(AveragePooling(2, 6, 8, 1), AveragePooling(2, 6, 8, 1))


def test_a_function_needs_no_adjoint_and_may_want_one_type() -> None:
    matrix = draws(4, 6).float()
    operator = FunctionOperator(lambda x: x.flatten(1) @ matrix.T, (1, 2, 3))
    assert operator.data_shape == (4,)
    y = draws(2, 4).float()
    assert_close(operator.adjoint(y), (y @ matrix).reshape(2, 1, 2, 3))
    with torch.inference_mode():
        assert_close(operator.adjoint(y.clone()), (y @ matrix).reshape(2, 1, 2, 3))


NOT_LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda x: x**2,
    "offset": lambda x: x + 1,
    "clipping": lambda x: x.clamp(-50, 50),
    "magnitude": lambda x: torch.fft.fft(x).abs(),
    "rounding": lambda x: (x * 16).round() / 16,
    "normalised": lambda x: x / x.norm(dim=1, keepdim=True),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_a_non_linear_function_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(
        InputError, match=r"FunctionOperator: the function is not linear, .*; use the solver dps"
    ):
        FunctionOperator(NOT_LINEAR[name], (6,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionOperator(lambda x: x - x.mean(0), (6,)), "depend on the other images"),
        (lambda: FunctionOperator(lambda x: x / 0, (6,)), "NaN or infinite"),
        (lambda: FunctionOperator(lambda x: x @ draws(5, 6).T @ draws(6, 2), (6,)), "cannot be used"),
        (lambda: FunctionOperator(lambda x: x.sum(), (6,)), "one real tensor an image"),
        (lambda: FunctionOperator(lambda x: x, (6,), (5,)), "was announced"),
        (lambda: FunctionOperator(lambda x: x.flip(1), (6,), adjoint=lambda y: 2 * y.flip(1)), "transpose"),
        (lambda: FunctionOperator(lambda x: x.roll(1, 1), (6,), adjoint=lambda y: y.roll(1, 1)), "transpose"),
        (lambda: FunctionOperator(lambda x: x[:, :3], (6,), adjoint=lambda y: y), r"shape \(3,\), \(6,\)"),
        (lambda: FunctionOperator(lambda x: x.detach() * 2, (6,)), "the adjoint cannot be used"),
        (lambda: Dense(torch.ones(3)), "Dense: a matrix of shape"),
        (lambda: Dense(draws(2, 6), (2, 2)), r"does not map \(2, 2\)"),
        (lambda: Dense(draws(2, 6) / 0), "Dense"),
        (lambda: Grayscale(3, 4, weights=torch.ones(2)), "Grayscale: weights"),
        (lambda: Blur(torch.ones(4), 5, 5, 1), "Blur: a kernel of shape"),
        (lambda: Blur(KERNEL, 5, 5, 1, factor=0), "Blur: cannot keep"),
        (lambda: AveragePooling(0, 5, 5, 1), "AveragePooling"),
        (lambda: Compressive(17, (1, 4, 4)), "Compressive: 17 measurements"),
        (lambda: Inpainting(torch.ones(3), shape=(2, 4)), "Inpainting: a mask"),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_border_is_a_setting() -> None:
    with pytest.raises(ConfigError, match="unknown border 'wrap'"):
        Blur(KERNEL, 5, 5, 1, "wrap")  # type: ignore[arg-type]


class Physics:
    def __init__(self, sign: float = 1.0) -> None:
        self.matrix, self.sign = draws(3, 8), sign

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.sign * (y @ self.matrix).reshape(-1, 2, 4)

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ torch.linalg.pinv(self.matrix).T).reshape(-1, 2, 4)


def test_objects_of_other_packages_drop_in() -> None:
    physics, y = Physics(), draws(2, 3)
    operator = adapt(physics, (2, 4))
    assert operator.data_shape == (3,)
    assert_close(operator.adjoint(y), physics.A_adjoint(y))
    assert_close(operator.pinv(y), physics.A_dagger(y))
    with pytest.raises(InputError, match="Physics: the adjoint is not the transpose"):
        adapt(Physics(-1.0), (2, 4))


def test_the_dot_product_test_finds_a_wrong_adjoint() -> None:
    class Wrong(Identity):
        def adjoint(self, y: Tensor) -> Tensor:
            return y * (1 + 1e-6)

    check_adjoint(Identity(4))
    with pytest.raises(InputError, match="Wrong: the adjoint is not the transpose"):
        check_adjoint(Wrong(4))
