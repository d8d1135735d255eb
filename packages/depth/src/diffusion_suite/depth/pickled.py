"""What a published checkpoint may hold besides tensors and plain values: NumPy arrays, omegaconf settings.

Settings of omegaconf are read into bare records, so that nothing of omegaconf runs and its version does not
matter; `plain` makes dicts, lists and numbers of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from diffusion_suite.core.errors import CheckpointError


class Record:
    """The attributes of an object of omegaconf, and nothing else."""


_NUMPY: dict[str, Any] = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
}
_TYPES = ("float16", "float32", "float64", "int32", "int64")
_OMEGACONF = (
    "base.ContainerMetadata", "base.Metadata", "dictconfig.DictConfig", "listconfig.ListConfig",
    "nodes.AnyNode", "nodes.BooleanNode", "nodes.FloatNode", "nodes.IntegerNode", "nodes.StringNode",
)  # fmt: skip

ALLOWED: Mapping[str, Any] = MappingProxyType(
    {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        **{
            f"numpy.{room}.multiarray.{name}": call
            for room in ("core", "_core")
            for name, call in _NUMPY.items()
        },
        **{f"numpy.dtypes.{type(np.dtype(name)).__name__}": type(np.dtype(name)) for name in _TYPES},
        **{f"omegaconf.{name}": Record for name in _OMEGACONF},
        "typing.Any": Record,
        "collections.defaultdict": defaultdict,
        **{f"builtins.{kind.__name__}": kind for kind in (dict, list, int, float, str, bool)},
    }
)
"""Names in the file and what is called in their place, for `read_pickled`."""


def plain(value: Any) -> Any:
    """Dicts, lists, numbers and text of what was read; references in the settings stay text.

    Raises:
        CheckpointError: something else is among them.
    """
    if isinstance(value, Record):
        inner = vars(value)
        if "_content" in inner:
            return plain(inner["_content"])
        if "_val" in inner:
            return plain(inner["_val"])
    if isinstance(value, (np.generic, torch.Tensor)) and getattr(value, "ndim", 0) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        f"the settings in the checkpoint hold a {type(value).__name__}", "save them as plain values"
    )
