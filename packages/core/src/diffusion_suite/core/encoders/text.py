"""Encoders of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from diffusion_suite.core.encoders.base import Contract, Encoder, Features, full
from diffusion_suite.core.errors import InputError


class TextEncoder(Encoder):
    """An encoder of text over a network and a tokenizer of ``transformers``.

    Inputs are a sequence of texts. Tokens of shorter ones are padded, which the mask tells.

    Args:
        tokenizer: turns texts into numbers of word pieces.
        filled: whether all texts are padded to the contract's length and the network sees no mask, as SigLIP
            was trained.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        name: str,
        width: int,
        contract: Contract,
        pooling: str = "mean",
        layer: int | None = None,
        filled: bool = False,
    ) -> None:
        super().__init__(network, "text", name, width, contract, pooling, layer)
        self.tokenizer, self.filled = tokenizer, filled

    @override
    def settings(self) -> dict[str, Any]:
        words = self.tokenizer.get_vocab()
        return {**super().settings(), "tokenizer": [type(self.tokenizer).__name__, sorted(words.items())]}

    @override
    def prepare(self, inputs: Sequence[str], *, truncate: bool = False) -> dict[str, Any]:
        """Numbers of word pieces, mask and spans.

        Args:
            inputs: texts.
            truncate: cut a text that is longer than the network reads.

        Raises:
            ValueError: for a single string, or none.
            InputError: for a text that is too long, unless it may be cut.
        """
        if isinstance(inputs, str) or not len(inputs) or not all(isinstance(text, str) for text in inputs):
            raise ValueError("text is a sequence of one or more strings")
        coded = self.tokenizer(
            list(inputs),
            padding="max_length" if self.filled else "longest",
            truncation=truncate,
            max_length=self.contract.max_length if truncate or self.filled else None,
            return_tensors="pt",
            return_attention_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
        )
        longest = coded["input_ids"].shape[1]
        if self.contract.max_length and longest > self.contract.max_length:
            raise InputError(
                f"a text of {longest} word pieces is longer than the {self.contract.max_length} that "
                f"{self.name} reads",
                "shorten it, or give truncate=True",
            )
        device = next(self.network.parameters()).device
        prepared = {name: coded[name].to(device) for name in ("input_ids", "attention_mask")}
        spans = coded.get("offset_mapping")
        return {**prepared, "spans": None if spans is None else spans.tolist()}

    @override
    def run(self, prepared: dict[str, Any]) -> Features:
        given = {name: prepared[name] for name in ("input_ids", "attention_mask")[: 2 - self.filled]}
        states, output = self.hidden(**given)
        mask = prepared["attention_mask"].bool()
        own = getattr(output, "pooler_output", None) if self.layer is None else None
        pooled = self.pool(states, states[:, 0], own, mask)
        spans = prepared["spans"]
        if spans is not None:
            spans = [[(start, end) for start, end in item] for item in spans]
        return Features(full(states), full(pooled), (states.shape[1],), mask, spans)
