"""Packages whose names are imported when first asked for, so that settings and help stay light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The module-level `__getattr__` of a package.

        __getattr__ = lazy(__name__, {"fit": "run"})  # fit is imported from the module run beside it

    Args:
        package: its `__name__`.
        homes: the module, relative to the package, that holds each name.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
