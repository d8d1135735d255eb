"""The card that lies beside weights: on what they were trained, how good they are, what they cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml


@dataclass(frozen=True)
class Card:
    """What a user must know of a set of weights; written as ``README.md`` with metadata that model hubs read.

    Attributes:
        title: name of the weights.
        summary: what they are for, in a sentence or two.
        data: what they were trained on, with its licence.
        command: the command that trained them.
        metrics: measured figures by name, e.g. ``{"PSNR (dB), Indian Pines, sigma 0.1": 33.9}``.
        licence: SPDX name of the licence of the weights.
        limits: what they cannot do, one sentence each.
        tags: words by which a hub finds them.
    """

    title: str
    summary: str
    data: str
    command: str
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    licence: str = "apache-2.0"
    limits: Sequence[str] = ()
    tags: Sequence[str] = ()

    def to_markdown(self) -> str:
        """The card as Markdown under a YAML header."""
        header = {"license": self.licence.lower(), "library_name": "diffusion-suite", "tags": list(self.tags)}
        blocks = [
            f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
            f"# {self.title}",
            self.summary,
            f"## Training\n\n{self.data}\n\n```\n{self.command}\n```",
        ]
        if self.metrics:
            rows = "\n".join(f"| {name} | {_figure(value)} |" for name, value in self.metrics.items())
            blocks.append(f"## Measured\n\n| | |\n|---|---|\n{rows}")
        if self.limits:
            blocks.append("## Limits\n\n" + "\n".join(f"- {limit}" for limit in self.limits))
        blocks.append(f"## Licence\n\n{self.licence}")
        return "\n\n".join(blocks) + "\n"


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
