"""Random numbers keyed by what they are for, so that no result depends on order, batch or machine count.

Every draw of the suite comes from a generator made here from a key such as ``(seed, item)`` or ``(seed, step,
rank)``. Item 7 of a folder then gives the same result alone, in a batch of 32, or on the second of two
devices.

    >>> key(0, "scene.tif") == key(0, "scene.tif"), key(0, "scene.tif") == key(1, "scene.tif")
    (True, False)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(*parts: int | str) -> int:
    """A stable number for a tuple of integers and words, the same on every machine and in every process.

    Args:
        parts: what the draw is for, e.g. ``key(seed, "tile", 12)``. The integer 1 and the text "1" differ.

    Returns:
        An integer in ``[0, 2**63)`` (64-bit BLAKE2b of the typed parts, top bit dropped).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (int, str, np.integer)):
            raise TypeError(f"a seed key is made of integers and text, not {type(part).__name__}")
        kind, text = ("s", part) if isinstance(part, str) else ("i", str(int(part)))
        encoded = text.encode()
        digest.update(f"{kind}{len(encoded)}:".encode() + encoded)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(*parts: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for a key, see :func:`key`.

    Args:
        parts: what the draws are for.
        device: where the generator draws. CPU and CUDA give different numbers for one key.
    """
    import torch

    made = torch.Generator(device=device)
    made.manual_seed(key(*parts))
    return made


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator for a key, see :func:`key`."""
    return np.random.default_rng(key(*parts))


def seed_global(*parts: int | str) -> None:
    """Set torch's global generators (all devices), which dropout layers and weight initialisers draw from."""
    import torch

    torch.manual_seed(key(*parts))


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Run a block, such as the making of a network, with torch's global generator set by a key.

    Example:
        >>> import torch
        >>> with seeded(0, "weights"):
        ...     first = torch.nn.Linear(2, 2).weight
        >>> with seeded(0, "weights"):
        ...     second = torch.nn.Linear(2, 2).weight
        >>> bool((first == second).all())
        True
    """
    import torch

    with torch.random.fork_rng():
        seed_global(*parts)
        yield
