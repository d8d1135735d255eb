"""Tests that every domain shares, for third parties too: the contract of a system, and recorded tensors.

``pytest`` is needed to use them: ``pip install 'diffusion-suite-core[testing]'``; the networks of ``testing.tiny``,
for tests and examples, do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_suite.core.testing.contract import DomainContract
    from diffusion_suite.core.testing.golden import Case, cases, dispatch

__all__ = ["Case", "DomainContract", "cases", "dispatch"]

_HOMES = {"Case": "golden", "DomainContract": "contract", "cases": "golden", "dispatch": "golden"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
