"""Weights in and out: ``save_pretrained``, ``from_pretrained``, and published files by key tables."""

from diffusion_suite.core.checkpoints.card import Card
from diffusion_suite.core.checkpoints.pretrained import Pretrained
from diffusion_suite.core.checkpoints.published import (
    load_published,
    load_weights,
    match_keys,
    read_pickled,
    save_pickled,
    save_weights,
)

__all__ = [
    "Card",
    "Pretrained",
    "load_published",
    "load_weights",
    "match_keys",
    "read_pickled",
    "save_pickled",
    "save_weights",
]
