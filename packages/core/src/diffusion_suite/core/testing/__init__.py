"""Tests that every domain shares, for third parties too: the contract of a system, and recorded tensors.

``pytest`` is needed to use them: ``pip install 'diffusion-suite-core[test]'``.
"""

from diffusion_suite.core.testing.contract import DomainContract
from diffusion_suite.core.testing.golden import Case, cases, dispatch

__all__ = ["Case", "DomainContract", "cases", "dispatch"]
