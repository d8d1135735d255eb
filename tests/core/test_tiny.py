"""The tiny transformer of the tests: shapes, what its inputs change, no class."""

import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.testing.tiny import TinyTransformer


def opened(**settings: int) -> TinyTransformer:
    """A network whose zero-initialised layers are not zero."""
    with seeding.seeded("tiny"):
        network = TinyTransformer(**settings)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    return network.eval()


def test_size_and_shapes() -> None:
    network = opened()
    assert sum(weight.numel() for weight in network.parameters()) < 0.33e6
    for shape in ((1, 1, 8, 8), (3, 1, 6, 10)):
        assert network(torch.zeros(shape), torch.rand(shape[0])).shape == shape
    assert opened(channels=3, patch=4)(torch.zeros(2, 3, 8, 12), torch.rand(2)).shape == (2, 3, 8, 12)
    with pytest.raises(ValueError, match="divisible"):
        network(torch.zeros(1, 1, 7, 8), torch.rand(1))


def test_starts_at_zero() -> None:
    assert not TinyTransformer()(torch.ones(1, 1, 8, 8), torch.ones(1)).any()


def test_time_class_guidance_and_place_matter_and_no_class_is_the_last() -> None:
    network = opened()
    x = torch.randn(2, 1, 8, 8, generator=seeding.generator("x"))
    t, label = torch.tensor([0.2, 0.7]), torch.tensor([3, 10])
    plain = network(x, t)
    found = network(x, t, label=label)
    assert_close(found[1], plain[1])
    assert not torch.allclose(found[0], plain[0], atol=1e-4)
    assert not torch.allclose(network(x, t + 1e-2), plain, atol=1e-4)
    assert not torch.allclose(network(x, t, guidance=torch.ones(2)), plain, atol=1e-4)
    assert not torch.allclose(network(x.flip(-1), t).flip(-1), plain, atol=1e-4)
