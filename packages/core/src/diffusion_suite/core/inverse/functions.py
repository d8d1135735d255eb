"""Operators made of a user's own functions, of other operators, or of objects of other packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse.operators import LinearOperator

Function = Callable[[Tensor], Tensor]


class FunctionOperator(LinearOperator):
    """An operator given by a function, checked when it is made.

    The function is tried on random images: it must treat the items of a batch one by one and be linear, and
    the adjoint must pass the dot-product test.

    Args:
        function: (batch, *image_shape) -> (batch, *data_shape), for any batch.
        image_shape: shape of one image.
        data_shape: shape of its data; None takes that of a trial.
        adjoint: the transpose of `function`; None takes it by automatic differentiation.
        pinv: the pseudo-inverse; None finds it by conjugate gradients.
        like: tensor whose type and device the trials have; None = float64 on the CPU, or float32 where the
            function refuses float64.
        name: the operator's name in errors.

    Raises:
        InputError: the function cannot be called, is not linear, mixes the items of a batch, gives another
            shape or values that are not finite; or the adjoint is not its transpose.

    Example:
        >>> import torch
        >>> sums = FunctionOperator(lambda x: x.sum(-1), image_shape=(1, 2, 3))
        >>> sums.data_shape, sums.adjoint(torch.ones(1, 1, 2)).shape
        ((1, 2), torch.Size([1, 1, 2, 3]))
    """

    def __init__(
        self,
        function: Function,
        image_shape: tuple[int, ...],
        data_shape: tuple[int, ...] | None = None,
        adjoint: Function | None = None,
        *,
        pinv: Function | None = None,
        like: Tensor | None = None,
        name: str = "FunctionOperator",
    ) -> None:
        self.image_shape, self.name = tuple(image_shape), name
        self._function, self._adjoint, self._pinv = function, adjoint, pinv
        data, like = self._check_linear(like)
        self.data_shape = tuple(data.shape[1:]) if data_shape is None else tuple(data_shape)
        if tuple(data.shape[1:]) != self.data_shape:
            raise InputError(
                f"{name}: gives data of shape {tuple(data.shape[1:])}, {self.data_shape} was announced",
                "give the data_shape that the function returns",
            )
        check_adjoint(self, like, name)

    @override
    def A(self, x: Tensor) -> Tensor:
        return self._function(x)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        if self._adjoint is not None:
            return self._adjoint(y)
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(y.shape[0], *self.image_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            data = self._function(x)
            (transposed,) = torch.autograd.grad(data, x, y.clone().to(data))
        return transposed

    @override
    def pinv(self, y: Tensor) -> Tensor:
        return super().pinv(y) if self._pinv is None else self._pinv(y)

    def _check_linear(self, like: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data of trials, and a tensor of the type and device in which the function works."""
        first, second = _draw((2, *self.image_shape), "linear").unbind(0)
        trials = torch.stack([first, second, 0.7 * first - 1.3 * second, 1000.0 * first])
        trials, data = self._try(trials, like)
        alone = self._function(trials[:1])
        scale = data.abs().amax() / 1000.0 + torch.finfo(data.dtype).tiny
        summed = (data[2] - 0.7 * data[0] + 1.3 * data[1]).abs().amax() / scale
        stretched = (data[3] / 1000.0 - data[0]).abs().amax() / scale
        mixed = (alone[0] - data[0]).abs().amax() / scale if alone.shape[1:] == data.shape[1:] else 1.0
        bound = _tolerance(data)
        if not bool(torch.isfinite(data).all()):
            raise InputError(
                f"{self.name}: gives NaN or infinite values", "use a function that is finite for every image"
            )
        if float(mixed) > bound:
            raise InputError(
                f"{self.name}: an image's data depend on the other images of its batch",
                "use a function that treats the items of a batch one by one",
            )
        if float(summed) > bound or float(stretched) > bound:
            raise InputError(
                f"{self.name}: the function is not linear, A(a x + b z) differs from a A(x) + b A(z)",
                "use the solver dps, which takes any differentiable function, or remove offsets, clipping "
                "and rounding from it",
            )
        return data, trials

    def _try(self, trials: Tensor, like: Tensor | None) -> tuple[Tensor, Tensor]:
        kinds = [trials, trials.float()] if like is None else [trials.to(like)]
        problem = ""
        for kind in kinds:
            try:
                data = self._function(kind)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                problem = problem or str(error).splitlines()[0]
                continue
            if isinstance(data, Tensor) and data.is_floating_point() and data.shape[:1] == kind.shape[:1]:
                return kind, data
            problem = problem or "it does not return one real tensor an image"
        raise InputError(
            f"{self.name}: the function cannot be used on a batch {tuple(trials.shape)}: {problem}",
            "give a function of tensors (batch, *image_shape), and `like` where it needs a type or device",
        )


class Composed(LinearOperator):
    """One operator after another, x -> outer(inner(x)); solved by conjugate gradients.

    Raises:
        InputError: the data of `inner` are not the images of `outer`.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if tuple(outer.image_shape) != tuple(inner.data_shape):
            raise InputError(
                f"Composed: {type(inner).__name__} gives data of shape {inner.data_shape}, "
                f"{type(outer).__name__} takes {outer.image_shape}",
                "give operators that fit, the one that acts last first",
            )
        self.outer, self.inner = outer, inner
        self.image_shape, self.data_shape = inner.image_shape, outer.data_shape

    @override
    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class Physics(Protocol):
    """What other packages call a linear physics; `A_dagger`, the pseudo-inverse, may be missing."""

    def A(self, x: Tensor, /) -> Tensor:
        """Data of images."""
        ...

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Transpose of `A`."""
        ...


def adapt(
    physics: Physics,
    image_shape: tuple[int, ...],
    data_shape: tuple[int, ...] | None = None,
    like: Tensor | None = None,
) -> FunctionOperator:
    """The operator of an object with `A`, `A_adjoint` and perhaps `A_dagger`, as deepinv has them.

    Args:
        physics: the object; its own noise model must be off.
        image_shape: shape of one image.
        data_shape: shape of its data; None takes that of a trial.
        like: tensor whose type and device the object needs.

    Raises:
        InputError: it is not linear, or `A_adjoint` is not the transpose of `A`.
    """
    dagger: Function | None = getattr(physics, "A_dagger", None)
    name = type(physics).__name__
    return FunctionOperator(
        physics.A, image_shape, data_shape, physics.A_adjoint, pinv=dagger, like=like, name=name
    )


def check_adjoint(operator: LinearOperator, like: Tensor | None = None, name: str = "") -> None:
    """Refuse an operator whose adjoint fails the dot-product test <A x, r> = <x, A^T r>.

    Args:
        operator: any.
        like: tensor whose type and device the test has; None = float64 on the CPU.
        name: the operator's name in the error; empty = that of its class.

    Raises:
        InputError: it fails, to 1e-9 of |A x| |r| + |x| |A^T r| in float64 (3e-4 in float32).
    """
    x, r = _draw((2, *operator.image_shape), "image"), _draw((2, *operator.data_shape), "data")
    if like is not None:
        x, r = x.to(like), r.to(like)
    problem = ""
    try:
        image, transposed = operator.A(x), operator.adjoint(r)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        problem = f"the adjoint cannot be used: {str(error).splitlines()[0]}"
    else:
        if transposed.shape != x.shape:
            given = tuple(transposed.shape[1:])
            problem = f"the adjoint gives images of shape {given}, {operator.image_shape} are needed"
        else:
            difference = ((image * r).sum() - (x * transposed).sum()).abs()
            size = image.norm() * r.norm() + x.norm() * transposed.norm()
            bound = max(_tolerance(image), _tolerance(transposed))
            if not float(difference) <= bound * float(size):
                problem = "the adjoint is not the transpose of the function, <A x, r> differs from <x, A^T r>"
    if problem:
        raise InputError(
            f"{name or type(operator).__name__}: {problem}",
            "give the true adjoint, or none to have it taken by automatic differentiation",
        )


def _tolerance(values: Tensor) -> float:
    return 1e-9 if values.dtype == torch.float64 else 3e-4


def _draw(shape: tuple[int, ...], use: str) -> Tensor:
    return torch.randn(shape, generator=seeding.generator("operator", use, *shape), dtype=torch.float64)
