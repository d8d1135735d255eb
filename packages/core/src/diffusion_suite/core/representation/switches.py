"""Add-ons from plain settings, as the key `add_ons` of every `train` command gives them.

add_ons:
self_alignment: {student: 1, teacher: 3, width: 64}
representation_alignment: {block: 1, width: 64, teacher: efficientnet-lite0, coefficient: 0.5}
condition_perturbation: {embedding: network.label, null: 10}
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.add_on import AddOn
from diffusion_suite.core.representation.alignment import Decay
from diffusion_suite.core.representation.callbacks import (
    ConditionPerturbation,
    RepresentationAlignment,
    SelfAlignment,
)


def switched_on(settings: Mapping[str, Any]) -> list[AddOn]:
    """The add-ons that settings name.

    Args:
        settings: name -> settings of its class, in which `coefficient`, `warmup` and `half` stand for the
            weight (see `Decay`), and `teacher`, `picture` and `values` for a teacher (see `PictureTeacher`).

    Raises:
        ConfigError: an unknown name or setting, or one that is missing.
    """
    made: list[AddOn] = []
    for name, given in settings.items():
        if name not in _MAKERS:
            raise ConfigError(f"no add-on {name!r}", f"give {', '.join(_MAKERS)}", "add_ons")
        if not isinstance(given, Mapping):
            raise ConfigError(f"add_ons.{name} is {given!r}", "give its settings", "add_ons")
        maker = _MAKERS[name]
        try:
            inspect.signature(maker).bind(**given)
        except TypeError as error:
            known = ", ".join(inspect.signature(maker).parameters)
            raise ConfigError(f"add_ons.{name}: {error}", f"its settings are {known}", "add_ons") from error
        made.append(maker(**given))
    return made


class PictureTeacher(nn.Module):
    """A frozen encoder of the pictures in a batch.

    Args:
        source: as for `load_encoder`: a folder, a hub id in the local cache, or a packaged one.
        picture: key of the pictures (batch, 3, height, width) in the batch; empty where the batch is them.
        values: smallest and largest value of the pictures.
    """

    def __init__(self, source: str, picture: str = "", values: tuple[float, float] = (-1.0, 1.0)) -> None:
        from diffusion_suite.core.encoders import load_encoder

        super().__init__()
        self.encoder = load_encoder(source, "image")
        self.picture, (self.low, self.high) = picture, values

    def forward(self, batch: Any) -> Tensor:
        """Maps (batch, width, rows, columns) of a batch as it comes from the loader."""
        pictures: Tensor = batch[self.picture] if self.picture else batch
        if pictures.shape[1] == 1:
            pictures = pictures.expand(-1, 3, -1, -1)
        with torch.no_grad():
            seen = self.encoder.encode(((pictures - self.low) / (self.high - self.low)).clamp(0, 1))
        maps: Tensor = seen.tokens.transpose(1, 2).reshape(len(pictures), -1, *seen.grid)
        return maps


def _representation_alignment(
    block: int | str,
    width: int,
    teacher: str,
    picture: str = "",
    values: tuple[float, float] = (-1.0, 1.0),
    coefficient: float = 0.5,
    warmup: int = 0,
    half: float | None = None,
    hidden: int = 2048,
    clean_warmup: bool = False,
    network: str = "network",
) -> AddOn:
    made = PictureTeacher(teacher, picture, values)
    return RepresentationAlignment(
        block,
        made,
        width=width,
        teacher_width=made.encoder.width,
        hidden=hidden,
        weight=Decay(coefficient, warmup, half),
        clean_warmup=clean_warmup,
        network=network,
    )


def _self_alignment(
    student: int | str,
    teacher: int | str,
    width: int,
    distance: Any = "cosine",
    coefficient: float = 0.5,
    back: float = 0.2,
    network: str = "network",
) -> AddOn:
    weight = Decay(coefficient)
    return SelfAlignment(
        student, teacher, width=width, distance=distance, weight=weight, back=back, network=network
    )


_MAKERS: dict[str, Any] = {
    "representation_alignment": _representation_alignment,
    "self_alignment": _self_alignment,
    "condition_perturbation": ConditionPerturbation,
}
