"""Settings of a distillation. Imports no torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from diffusion_suite.core.config import opt
from diffusion_suite.core.errors import ConfigError


class Stage(NamedTuple):
    """A stretch of training with one teacher.

    Attributes:
        start: its first optimiser step.
        length: its number of optimiser steps.
        steps: sampler steps of its student.
        guided: whether it teaches guidance; the others halve the number of steps.
    """

    start: int
    length: int
    steps: int
    guided: bool


@dataclass
class Distillation:
    """First guidance, where there is any, into one evaluation; then half as many steps, again and again."""

    first: int = opt(1024, "sampler steps of the first teacher", ge=1)
    last: int = opt(4, "sampler steps of the last student: first halved several times", ge=1)
    round_steps: int = opt(10_000, "optimiser steps a halving", ge=1)
    guidance: list[float] = opt(
        [], "lowest and highest guidance scale that the student takes (1 is unguided); empty for none"
    )
    guidance_steps: int = opt(
        0, "optimiser steps that teach guidance, before the halvings; 0 if the network knows it already", ge=0
    )

    def check(self) -> None:
        """Check what no single key shows.

        Raises:
            ConfigError: `first` is not `last` times a power of two, the range of guidance is none, or there
                is nothing to do.
        """
        halvings(self.first, self.last)
        if self.guidance and (len(self.guidance) != 2 or self.guidance[0] > self.guidance[1]):
            raise ConfigError(
                f"guidance={self.guidance} is no range", "give two numbers, guidance=[1,4]", "guidance"
            )
        if self.guidance_steps and not self.guidance:
            raise ConfigError(
                "guidance_steps is given, but no range of guidance", "give guidance=[1,4]", "guidance"
            )
        if not self.stages:
            raise ConfigError("nothing to distil", "give last below first, or guidance_steps", "last")

    @property
    def stages(self) -> list[Stage]:
        """What follows on what."""
        made = [Stage(0, self.guidance_steps, self.first, True)] if self.guidance_steps else []
        for index, steps in enumerate(halvings(self.first, self.last)):
            start = self.guidance_steps + index * self.round_steps
            made.append(Stage(start, self.round_steps, steps, False))
        return made

    @property
    def total(self) -> int:
        """Optimiser steps of all stages: the key ``steps`` of the training."""
        return self.stages[-1].start + self.stages[-1].length

    def stage(self, step: int) -> Stage:
        """The stage of an optimiser step; the last one goes on."""
        return [stage for stage in self.stages if stage.start <= step][-1]


def halvings(first: int, last: int) -> list[int]:
    """The numbers of steps of the students.

    >>> halvings(64, 4)
    [32, 16, 8, 4]

    Args:
        first: of the first teacher.
        last: of the last student.

    Raises:
        ConfigError: `first` is not `last` times a power of two.
    """
    steps, made = first, list[int]()
    while steps > last:
        if steps % 2:
            break
        steps //= 2
        made.append(steps)
    if steps != last:
        raise ConfigError(
            f"{first} steps cannot be halved to {last}", "give first as last times a power of two", "first"
        )
    return made
