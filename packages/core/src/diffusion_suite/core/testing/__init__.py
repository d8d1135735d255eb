"""Tests that every domain shares, for third parties too: the contract of a system, and recorded tensors.

``pytest`` is needed to use them: ``pip install 'diffusion-suite-core[testing]'``; the networks of
``testing.tiny``, for tests and examples, do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.core.testing.contract import DomainContract
    from diffusion_suite.core.testing.golden import Case, cases, dispatch, runners

__all__ = ["Case", "DomainContract", "cases", "dispatch", "runners"]

_HOMES = {
    "Case": "golden",
    "DomainContract": "contract",
    "cases": "golden",
    "dispatch": "golden",
    "runners": "golden",
}

__getattr__ = lazy(__name__, _HOMES)
