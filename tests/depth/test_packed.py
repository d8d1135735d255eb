"""Convolutions with reordered weights give what plain ones give."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core.seeding import seeded
from diffusion_suite.depth.packed import _Packed, pack


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with seeded("packed"):
        layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.Conv2d(32, 64, 3, 2, 1, groups=2, bias=False),
            nn.Conv2d(64, 8, 1),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect"),
        )
    return layers.to(dtype).to(memory_format=torch.channels_last).eval()


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def used(module: nn.Module) -> list[bool]:
    parts = [part.__dict__.get("forward") for part in module.modules()]
    return [part.kept is not None for part in parts if isinstance(part, _Packed)]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_results_are_those_of_plain_convolutions(dtype: torch.dtype, error: float) -> None:
    module = network(dtype)
    sizes = [picture(2, 3, 16, 24, dtype=dtype), picture(1, 3, 7, 9, dtype=dtype)]
    plain = network(dtype)
    pack(module)
    with torch.no_grad():
        for x in sizes:
            assert_close(module(x), plain(x), rtol=error, atol=error)
    assert used(module) == [True] * 3


def test_results_do_not_hang_on_the_size_seen_first() -> None:
    sizes = [picture(1, 3, 8, 8), picture(4, 3, 40, 24), picture(2, 3, 5, 64)]
    found = []
    for first in sizes:
        module = network()
        pack(module)
        with torch.no_grad():
            module(first)
            found.append([module(x) for x in sizes])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_changed_weights_are_seen() -> None:
    module, plain, x = network(), network(), picture(1, 3, 8, 8)
    pack(module)
    with torch.no_grad():
        module(x)
        doubled = {name: 2 * value for name, value in plain.state_dict().items()}
        for one in (module, plain):
            one.load_state_dict(doubled)
        found = module(x)
        for one in (module, plain):
            one.double()
        assert_close(found.double(), plain(x.double()), rtol=1e-5, atol=1e-5)
        assert torch.equal(module(x.double()), plain(x.double()))


def test_gradients_take_the_plain_way() -> None:
    module, x = network(), picture(1, 3, 8, 8)
    pack(module)
    module(x).sum().backward()
    assert used(module) == [False] * 3
    assert module[0].weight.grad is not None


def test_copies_have_weights_of_their_own() -> None:
    module, x = network(), picture(1, 3, 8, 8)
    pack(module)
    with torch.no_grad():
        before = module(x)
        copied = deepcopy(module)
        for weight in module.parameters():
            weight.zero_()
        assert torch.equal(copied(x), before)
        assert not module(x).any()
