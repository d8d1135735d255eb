"""Features on disk: found again by content, never stale, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core.encoders import Contract, FeatureCache, ImageEncoder, SpeechEncoder, read_picture
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import generator, numpy_generator, seeded

image = pytest.importorskip("PIL.Image")


class Patches(nn.Module):
    """Tokens from one convolution; counts what passes it."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 5, 4, 4)
        self.seen: list[int] = []

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        self.seen.append(len(pixel_values))
        return SimpleNamespace(last_hidden_state=self.mix(pixel_values))


def encoder(**options: Any) -> ImageEncoder:
    with seeded(0, "patches"):
        return ImageEncoder(Patches(), "patches", 5, Contract(channels=3, size=16, patch=4), **options)


def write(path: Path, seed: int, shape: tuple[int, ...] = (20, 24, 3)) -> Path:
    values = numpy_generator(seed, "picture").integers(0, 256, shape, np.uint8)
    image.fromarray(values).save(path)
    return path


def seen(network: ImageEncoder) -> list[int]:
    assert isinstance(network.network, Patches)
    return network.network.seen


def test_known_features_are_not_worked_out_again(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path / "cache"), encoder()
    files: list[Path | Tensor | str] = [write(tmp_path / f"{i}.png", i) for i in range(5)]
    first = cache.pooled(network, files, batch_size=2)
    assert seen(network) == [2, 2, 1]
    expected = torch.cat([network.pooled(read_picture(str(path))[None]) for path in files])
    assert_close(first, expected)
    seen(network).clear()
    assert torch.equal(cache.pooled(network, files[::-1]), first.flip(0))
    assert torch.equal(FeatureCache(tmp_path / "cache").pooled(encoder(), files), first)
    assert seen(network) == []


def test_content_counts_not_name_or_time(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path / "cache"), encoder()
    path = write(tmp_path / "a.png", 0)
    first = cache.pooled(network, [path])
    path.rename(tmp_path / "b.png")
    cache.pooled(network, [tmp_path / "b.png", tmp_path / "b.png"])
    assert seen(network) == [1]
    stat = (tmp_path / "b.png").stat()
    write(tmp_path / "b.png", 1)
    os.utime(tmp_path / "b.png", (stat.st_atime, stat.st_mtime))
    changed = cache.pooled(network, [tmp_path / "b.png"])
    assert seen(network) == [1, 1]
    assert not torch.allclose(changed, first)


def test_other_weights_settings_and_transforms_are_other_features(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    path = write(tmp_path / "a.png", 0)
    networks = [encoder(), encoder(fit="crop"), encoder(size=8)]
    with torch.no_grad():
        networks.append(encoder())
        next(networks[-1].network.parameters()).mul_(2)
    made = [cache.pooled(network, [path]) for network in networks]
    dark = cache.pooled(networks[0], [path], read=lambda p: read_picture(p) / 2, transform="half as bright")
    assert_close(dark, networks[0].pooled(read_picture(path)[None] / 2))
    assert len({tuple(vector[0].tolist()) for vector in [*made, dark]}) == 5
    with pytest.raises(ValueError, match="transform"):
        cache.pooled(networks[0], [path], read=lambda p: read_picture(p) / 2)


def test_tensors_and_pictures_of_several_sizes(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path), encoder()
    rng = generator(0, "tensors")
    items = [torch.rand(3, side, 16, generator=rng) for side in (16, 16, 20, 16)]
    values = cache.pooled(network, [*items])
    assert seen(network) == [2, 1, 1]
    assert_close(values, torch.cat([network.pooled(item[None]) for item in items]))
    flat, tall = torch.zeros(3, 4, 8), torch.zeros(3, 8, 4)
    assert cache.key(flat, "x") != cache.key(tall, "x") != cache.key(tall.double(), "x")


def test_damaged_entries_are_made_again(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path / "cache"), encoder()
    path = write(tmp_path / "a.png", 0)
    first = cache.pooled(network, [path])
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-3])
    assert torch.equal(cache.pooled(network, [path]), first)
    assert seen(network) == [1, 1]
    assert cache.get(entry.stem) is not None


def test_a_failure_keeps_what_was_done_and_leaves_nothing_half(tmp_path: Path) -> None:
    cache, network = FeatureCache(tmp_path / "cache"), encoder()
    good, bad = write(tmp_path / "a.png", 0), tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png"):
        cache.pooled(network, [good, bad], batch_size=1)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".safetensors"]


def test_speech_carries_its_rate(tmp_path: Path) -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv1d(1, 4, 100, 100)

        def forward(self, input_values: Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.mix(input_values[:, None]).transpose(1, 2))

    contract = Contract(sample_rate=16000, stride=100, min_length=100)
    network = SpeechEncoder(Frames(), "frames", 4, contract)
    waves = [torch.randn(count, generator=generator(count)) for count in (500, 500, 800)]
    values = FeatureCache(tmp_path).pooled(network, [*waves], sample_rate=16000)
    assert_close(values[2:], network.pooled(waves[2][None], sample_rate=16000))
