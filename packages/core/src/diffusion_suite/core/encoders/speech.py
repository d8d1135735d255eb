"""Encoders of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.encoders.base import Contract, Encoder, Features, full
from diffusion_suite.core.errors import ConfigError, InputError

WINDOW, HOP = 400, 160
"""Samples of a window and between windows of the log-mel spectrogram that Whisper hears."""


class SpeechEncoder(Encoder):
    """An encoder of waveforms over a network of ``transformers``: wav2vec 2.0, HuBERT, WavLM, Moonshine.

    Inputs are (batch, samples), or a sequence of (samples,) of different lengths, with their ``sample_rate``.
    Another rate than the contract's is resampled (needs torchaudio). Utterances of different lengths pass the
    network one by one, so that none hears the padding of another.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        width: int,
        contract: Contract,
        pooling: str = "mean",
        layer: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network, "speech", name, width, contract, pooling, layer)
        self.arguments = arguments or {}

    @override
    def prepare(self, inputs: Tensor | Sequence[Tensor], *, sample_rate: int | None = None) -> list[Tensor]:
        """Waves of one length together, others each alone, at the contract's rate, normalised if it says so.

        Args:
            inputs: (batch, samples), or a sequence of (samples,).
            sample_rate: samples a second of the inputs; it must be given.

        Raises:
            ValueError: for another shape or type, or without sample_rate.
            InputError: for speech that is too short or too long.
            ConfigError: when torchaudio is needed and missing.
        """
        if sample_rate is None:
            raise ValueError("speech needs its sample_rate")
        dtype = next(self.network.parameters()).dtype
        waves = list(inputs)
        if not waves or any(wave.ndim != 1 or not wave.is_floating_point() for wave in waves):
            raise ValueError("speech is (batch, samples) or a sequence of (samples,), floating-point")
        waves = [self._checked(self._resampled(wave.to(dtype), sample_rate)) for wave in waves]
        if self.contract.normalise:
            waves = [(wave - wave.mean()) * (wave.var(correction=0) + 1e-7).rsqrt() for wave in waves]
        if len({len(wave) for wave in waves}) == 1:
            return [torch.stack(waves)]
        return [wave[None] for wave in waves]

    @override
    def run(self, prepared: list[Tensor]) -> Features:
        tokens = [states for batch in prepared for states in self._states(batch)]
        counts = [len(states) for states in tokens]
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        mask = None
        if len(set(counts)) > 1:
            mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            mask = mask.to(padded.device)
        pooled = self.pool(padded, padded[:, 0], None, mask)
        return Features(full(padded), full(pooled), (max(counts),), mask)

    def _states(self, waves: Tensor) -> Tensor:
        """Tokens of waves of one length, (batch, tokens, width)."""
        return self.hidden(input_values=waves, **self.arguments)[0]

    def _resampled(self, wave: Tensor, rate: int) -> Tensor:
        wanted = self.contract.sample_rate
        if rate == wanted:
            return wave
        try:
            from torchaudio.functional import resample  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ConfigError(
                f"speech at {rate} Hz must be brought to {wanted} Hz, for which torchaudio is missing",
                f"pip install 'diffusion-suite-core[speech]', or give speech at {wanted} Hz",
            ) from error
        resampled: Tensor = resample(wave, rate, wanted)
        return resampled

    def _checked(self, wave: Tensor) -> Tensor:
        contract = self.contract
        if len(wave) < max(1, contract.min_length):
            raise InputError(
                f"speech of {len(wave)} samples at {contract.sample_rate} Hz is shorter than a token",
                f"give {contract.min_length} samples or more",
            )
        if contract.max_length and len(wave) > contract.max_length:
            raise InputError(
                f"speech of {len(wave) / contract.sample_rate:.1f} s is longer than the "
                f"{contract.max_length / contract.sample_rate:g} s that {self.name} hears",
                "cut it into parts",
            )
        return wave


class WhisperEncoder(SpeechEncoder):
    """The encoder of Whisper: log-mel spectrograms of 30 s, of which the tokens of the speech are kept."""

    def __init__(self, network: nn.Module, filters: Tensor, **arguments: Any) -> None:
        super().__init__(network, **arguments)
        self.register_buffer("filters", filters, persistent=False)

    @override
    def _states(self, waves: Tensor) -> Tensor:
        count = -(-waves.shape[1] // self.contract.stride)
        padded = F.pad(waves, (0, self.contract.max_length - waves.shape[1]))
        return self.hidden(input_features=self._log_mel(padded))[0][:, :count]

    def _log_mel(self, waves: Tensor) -> Tensor:
        """(batch, mels, frames): decibels of 10 over 8 decades, brought to about [-1, 1]."""
        window = torch.hann_window(WINDOW, dtype=torch.float32, device=waves.device)
        spectrum = torch.stft(waves.float(), WINDOW, HOP, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        mel = torch.einsum("fm,bft->bmt", self.filters, power).clamp_min(1e-10).log10()
        mel = mel.maximum(mel.amax((1, 2), keepdim=True) - 8)
        return ((mel + 4) / 4).to(waves.dtype)
