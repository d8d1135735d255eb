"""What all guidances share: they are denoisers made of denoisers."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.schedulers import Denoiser, PredictionType, Time, target, to_eps, to_x0


class Guidance(Denoiser):
    """A denoiser that alters what another one says; it speaks of the same path in the same parametrisation.

    Subclasses override `predict`. Samplers and other guidances take it wherever they take a denoiser.

    Args:
        denoiser: the one that is altered.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.model, denoiser.path, denoiser.prediction_type)
        self.denoiser = denoiser

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        return self._around(self.denoiser.at_step(t, index, count))

    def _around(self, denoiser: Denoiser) -> Self:
        """This guidance around another denoiser, as for one step."""
        if denoiser is self.denoiser:
            return self
        changed = copy.copy(self)
        changed.denoiser = denoiser
        return changed


class Viewed(Guidance):
    """A denoiser whose own output is said in another parametrisation.

    Most guidances are affine and do not notice; a rescale acts on the output that it is given, so
    `ClassifierFree(Viewed(denoiser, "x0"), ..., rescale=0.7)` rescales the data instead of, say, the noise.

    Args:
        denoiser: of any prediction type.
        prediction_type: what `predict` returns.
    """

    def __init__(self, denoiser: Denoiser, prediction_type: PredictionType) -> None:
        super().__init__(denoiser)
        Denoiser.__init__(self, denoiser.model, denoiser.path, prediction_type)

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        output = self.denoiser.predict(x_t, t, **cond)
        have, want = self.denoiser.prediction_type, self.prediction_type
        if have == want:
            return output
        # Only what is asked for is computed: at the ends of a path the other one may not be finite.
        if want == "x0":
            return to_x0(output, x_t, t, self.path, have)
        eps = to_eps(output, x_t, t, self.path, have)
        if want == "eps":
            return eps
        return target(to_x0(output, x_t, t, self.path, have), eps, t, self.path, want)


def alike(denoiser: Denoiser, other: Denoiser) -> Denoiser:
    """The denoiser in the parametrisation of another one."""
    kind = other.prediction_type
    return denoiser if denoiser.prediction_type == kind else Viewed(denoiser, kind)
