"""AuthPct and C_T: copies are found, new items are not."""

import math

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics import authentic, copying_statistic
from diffusion_suite.core.metrics.memorisation import k_means, nearness, z_score


def draw(items: int, width: int, *key: int | str) -> Tensor:
    generator = seeding.generator("memorisation", items, width, *key)
    return torch.randn(items, width, generator=generator, dtype=torch.float64)


TRAIN, TEST = draw(300, 5, "train"), draw(200, 5, "test")


def test_authentic_by_its_definition() -> None:
    generated = torch.cat([draw(40, 5, "new"), TRAIN[:20] + 1e-3 * draw(20, 5, "jitter")])
    across = (generated[:, None] - TRAIN[None]).square().sum(2)
    own = (TRAIN[:, None] - TRAIN[None]).square().sum(2).fill_diagonal_(math.inf).amin(1)
    nearest = across.min(1)
    expected = own[nearest.indices] < nearest.values
    found = authentic(TRAIN, generated)
    assert torch.equal(found, expected)
    assert not bool(found[40:].any())
    assert 0.3 < float(found[:40].double().mean()) < 0.7


def test_exact_copies_far_from_the_origin_are_found() -> None:
    away = TRAIN * 1e-4 + 1e4
    assert not bool(authentic(away, away[:50].clone()).any())


def test_c_t_of_new_copied_and_underfitted_items() -> None:
    new = copying_statistic(TRAIN, TEST, draw(250, 5, "new"))
    assert abs(new.value) < 3
    copied = copying_statistic(TRAIN, TEST, TRAIN[:250] + 0.01 * draw(250, 5, "jitter"))
    assert copied.value < -5
    assert copied.overall < copied.value
    assert copying_statistic(TRAIN, TEST, 2.5 * draw(250, 5, "wide")).value > 3
    assert copying_statistic(TRAIN, TEST, draw(250, 5, "new")) is not new
    assert new.value == copying_statistic(TRAIN, TEST, draw(250, 5, "new")).value
    assert new.counts.sum(0).tolist() == [300, 200, 250]


def test_z_score_is_that_of_the_rank_test() -> None:
    first, second = draw(30, 1, 0)[:, 0].numpy(), draw(40, 1, 1)[:, 0].numpy() + 0.2
    for a, b in ((first, second), (first.round(1), second.round(1))):
        statistic = mannwhitneyu(a, b).statistic
        expected = (statistic - (30 * 40 / 2 - 0.5)) / math.sqrt(30 * 40 * 71 / 12)
        assert z_score(a, b) == pytest.approx(expected)


def test_cells_with_few_items_do_not_count() -> None:
    centroids = torch.tensor([[0.0] * 5, [100.0] * 5])
    generated = torch.cat([draw(60, 5, 0), 100 + draw(20, 5, 1)])
    train, test = (torch.cat([x, 100 + x[:30]]) for x in (TRAIN, TEST))
    found = copying_statistic(train, test, generated, centroids=centroids)
    assert math.isnan(found.cells[1])
    assert found.value == found.cells[0]
    assert found.counts.tolist() == [[300, 200, 60], [30, 30, 20]]
    assert found.value == pytest.approx(
        copying_statistic(TRAIN, TEST, generated[:60], centroids=centroids[:1]).overall
    )
    more = torch.cat([generated, 100 + draw(1, 5, 2)])
    both = copying_statistic(train, test, more, centroids=centroids)
    expected = (200 * both.cells[0] + 30 * both.cells[1]) / 230
    assert both.value == pytest.approx(expected)
    with pytest.raises(InputError, match="no cell holds more than 20"):
        copying_statistic(TRAIN, TEST, draw(12, 5, 0))


def test_wide_features_are_reduced_to_components() -> None:
    mixing = torch.linalg.qr(draw(100, 5, "mixing"))[0].T
    wide = [x @ mixing for x in (TRAIN, TEST, draw(250, 5, "new"))]
    narrow = copying_statistic(TRAIN, TEST, draw(250, 5, "new"), cells=1)
    assert copying_statistic(*wide, cells=1).value == pytest.approx(narrow.value, rel=1e-9)
    assert nearness(*wide).cells == 3


def test_k_means_finds_separated_groups_and_is_seeded() -> None:
    middles = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]], dtype=torch.float64)
    points = torch.cat([middle + draw(50, 2, index) for index, middle in enumerate(middles)])
    for seed in range(5):
        found = k_means(points, 3, seed)
        nearest = torch.cdist(middles, found).amin(1)
        assert float(nearest.max()) < 0.6
        assert torch.equal(found, k_means(points, 3, seed))
    assert torch.equal(k_means(torch.ones(9, 2), 2), torch.ones(2, 2))
    with pytest.raises(InputError, match="2 training items for 3 cells"):
        k_means(points[:2], 3)


def test_refusals() -> None:
    with pytest.raises(InputError, match="5 features an item, the other 4"):
        authentic(TRAIN, draw(9, 4, 0))
    with pytest.raises(InputError, match="test set: 1 item"):
        copying_statistic(TRAIN, TEST[:1], TRAIN)
    broken = TEST.clone()
    broken[0, 0] = math.inf
    with pytest.raises(InputError, match="generated set: 1 of 200"):
        copying_statistic(TRAIN, TEST, broken)
