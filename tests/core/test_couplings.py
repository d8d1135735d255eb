"""Couplings: every sample once, conditions with their targets, the least cost."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.flow_matching import (
    data_dependent,
    entropic_plan,
    independent,
    optimal_pairing,
    optimal_transport,
    squared_distances,
)


def batch(count: int, *shape: int, name: str = "batch") -> torch.Tensor:
    return torch.randn(count, *shape, generator=seeding.generator(name, count), dtype=torch.float64)


def test_the_pairing_is_the_cheapest_permutation() -> None:
    source, target = batch(6, 1, 2), batch(6, 1, 2, name="target")
    order = optimal_pairing(source, target)
    cost = squared_distances(source, target)
    every = torch.arange(6)
    best = min(float(cost[every, list(p)].sum()) for p in itertools.permutations(range(6)))
    assert_close(float(cost[every, order].sum()), best, rtol=0, atol=1e-12)
    assert_close(cost[2, 3], (source[2] - target[3]).square().sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [3, 7, 64])
def test_every_sample_is_kept_once_and_conditions_follow(limit: int) -> None:
    source, target = batch(20, 3, 5), batch(20, 3, 5, name="target")
    words = [str(index) for index in range(20)]
    cond = {"label": torch.arange(20), "text": words, "scale": 2.0, "deep": {"mask": target[:, :1]}}
    pairs = optimal_transport(limit=limit)(target, source, **cond)
    assert sorted(pairs.cond["label"].tolist()) == list(range(20))
    assert torch.equal(pairs.source, source)
    assert torch.equal(pairs.target, target[pairs.cond["label"]])
    assert torch.equal(pairs.cond["deep"]["mask"], pairs.target[:, :1])
    assert pairs.cond["text"] == [words[index] for index in pairs.cond["label"]]
    assert pairs.cond["scale"] == 2.0
    parts = pairs.cond["label"] // limit
    assert parts.tolist() == sorted(parts.tolist())


def test_transport_shortens_the_way() -> None:
    target = 4.0 + batch(64, 2)
    apart = independent(target, seeding.generator("pairs"))
    near = optimal_transport()(target, seeding.generator("pairs"))
    assert torch.equal(apart.source, near.source)
    way = [float((pairs.target - pairs.source).square().sum()) for pairs in (near, apart)]
    assert way[0] < 0.95 * way[1]


def test_a_source_is_made_of_conditions_and_noise() -> None:
    depth, picture = batch(4, 2, 3, 5), batch(4, 2, 3, 5, name="picture")
    noise = batch(4, 2, 3, 5, name="noise")
    coupling = data_dependent(lambda _, picture: picture, alpha=0.8, sigma=0.6)
    pairs = coupling(depth, noise, picture=picture)
    assert_close(pairs.source, 0.8 * picture + 0.6 * noise, rtol=0, atol=1e-15)
    assert pairs.target is depth
    assert pairs.cond["picture"] is picture
    drawn = coupling(depth, [seeding.generator(0, item) for item in range(4)], picture=picture)
    alone = coupling(depth[2:3], [seeding.generator(0, 2)], picture=picture[2:3])
    assert torch.equal(drawn.source[2:3], alone.source)


def test_without_noise_none_is_drawn() -> None:
    generator = seeding.generator("unused")
    before = generator.get_state()
    data_dependent(lambda target: target)(batch(2, 3), generator)
    assert torch.equal(generator.get_state(), before)


def test_the_entropic_plan_has_its_marginals_and_its_limits() -> None:
    cost = squared_distances(batch(5, 2), batch(8, 2, name="target"))
    cost = cost / cost.max()
    plan = entropic_plan(cost, 0.02)
    assert_close(plan.sum(1), torch.full((5,), 1 / 5, dtype=torch.float64), rtol=0, atol=1e-8)
    assert_close(plan.sum(0), torch.full((8,), 1 / 8, dtype=torch.float64), rtol=0, atol=1e-12)
    loose = entropic_plan(cost, 1e6)
    assert_close(loose, torch.full((5, 8), 1 / 40, dtype=torch.float64), rtol=0, atol=1e-7)
    # ln plan = potentials - cost / weight: its cross differences are those of the cost.
    cross = plan.log() + cost / 0.02
    assert_close(cross[1:, 1:] + cross[:-1, :-1], cross[1:, :-1] + cross[:-1, 1:], rtol=0, atol=1e-8)


def test_a_small_weight_gives_the_assignment() -> None:
    source, target = batch(6, 2), batch(6, 2, name="target")
    cost = squared_distances(source, target)
    plan = entropic_plan(cost / cost.max(), 1e-2, tolerance=1e-6)
    assert torch.equal(plan.argmax(1), optimal_pairing(source, target))
    assert float(plan.max(1).values.min()) > 0.7 / 6


def test_bad_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sources and 4 targets"):
        optimal_pairing(batch(3, 2), batch(4, 2))
    with pytest.raises(ValueError, match="no distance"):
        optimal_pairing(batch(3, 2), batch(3, 4))
    with pytest.raises(ConfigError, match="limit"):
        optimal_pairing(batch(3, 2), batch(3, 2), limit=0)
    with pytest.raises(ConfigError, match="above 0"):
        entropic_plan(torch.ones(2, 2), 0.0)
    with pytest.raises(ConfigError, match="iterations"):
        entropic_plan(batch(9, 9).square(), 1e-3, iterations=2)
    with pytest.raises(ValueError, match="for targets of"):
        data_dependent(lambda target: target[:, :1])(batch(2, 3), seeding.generator("x"))
