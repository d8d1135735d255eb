"""Drawn scenes and training items: functions of (seed, index) alone, in the units that training assumes."""

import numpy as np
import pytest
import torch

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.data import (
    MISSING,
    EigenStacks,
    ValidationStacks,
    procedural_scenes,
)
from diffusion_suite.geo.restoration.eigen_prior import WEAKEST
from diffusion_suite.geo.restoration.scenes import (
    PHOTOGRAPHS,
    eigen_images,
    eigen_scene,
    photographs,
    random_fields,
)

CHANNELS, PATCH = 6, 32


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return procedural_scenes(4, CHANNELS, seed=3, with_photographs=False)


@pytest.fixture(scope="module")
def stacks(scenes) -> EigenStacks:
    return EigenStacks(scenes, PATCH, seed=5)


def test_scene_depends_on_seed_and_index_alone(scenes):
    alone = eigen_scene(numpy_generator(3, "scene", 2), 160, CHANNELS)
    for found, expected in zip(scenes[2], alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    again = procedural_scenes(2, CHANNELS, seed=4, with_photographs=False)
    assert not np.array_equal(again[0][0], scenes[0][0])
    assert not np.array_equal(scenes[0][0], scenes[1][0])


@pytest.mark.parametrize("with_photographs", [False, True])
def test_eigen_images_have_unit_variance_and_falling_energy(with_photographs):
    pictures = [picture[::4, ::4] for picture in photographs()[:3]] if with_photographs else []
    for index in range(12):
        stack, deviation = eigen_scene(numpy_generator(0, "test", index), 48, CHANNELS, pictures)
        assert stack.shape == (CHANNELS, 48, 48)
        assert stack.dtype == deviation.dtype == np.float32
        real = deviation > 2e-4
        assert real.sum() >= 2
        np.testing.assert_allclose(stack.mean((1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(stack[real].std((1, 2)), 1, rtol=1e-3)
        assert deviation[0] == 1
        assert (np.diff(deviation) <= 0).all()


def test_eigen_images_of_a_known_cube():
    rng = numpy_generator(0, "cube")
    scores = np.linalg.qr(rng.standard_normal((20 * 30, 2)))[0] * np.sqrt(600)
    scores -= scores.mean(0)
    spectra = np.linalg.qr(rng.standard_normal((7, 2)))[0]
    cube = ((scores * [5.0, 2.0]) @ spectra.T + 3).reshape(20, 30, 7).astype(np.float32)
    stack, deviation = eigen_images(cube, 4)
    assert deviation[:2] == pytest.approx([1, 0.4], rel=0.05)
    assert (deviation[2:] < 1e-3).all()
    correlation = np.corrcoef(stack[:2].reshape(2, -1), scores.T)[:2, 2:]
    np.testing.assert_allclose(np.abs(correlation), np.eye(2), atol=0.1)
    few, relative = eigen_images(cube[..., :1], 3)
    assert (few[1:] == 0).all()
    assert relative.tolist() == pytest.approx([1, 1e-4, 1e-4])


def test_random_fields_follow_their_spectrum():
    white, rough, smooth = random_fields(numpy_generator(0, "fields"), 64, [0.0, 1.0, 2.0])
    neighbours = [
        float(np.corrcoef(f[:, 1:].ravel(), f[:, :-1].ravel())[0, 1]) for f in (white, rough, smooth)
    ]
    assert abs(neighbours[0]) < 0.05
    assert neighbours[0] < neighbours[1] < neighbours[2]
    assert neighbours[2] > 0.9
    np.testing.assert_allclose([f.std() for f in (white, rough, smooth)], 1, rtol=1e-4)


def test_photographs_are_there():
    pictures = photographs()
    assert len(pictures) == len(PHOTOGRAPHS)
    assert {picture.shape[2] for picture in pictures} == {1, 3}
    assert all(0 <= picture.min() < picture.max() <= 1 for picture in pictures)


def test_items_are_functions_of_seed_and_index(scenes, stacks):
    again, other = EigenStacks(scenes, PATCH, seed=5), EigenStacks(scenes, PATCH, seed=6)
    again[99]
    for index in (0, 7, 10**9):
        for name, value in stacks[index].items():
            assert torch.equal(value, again[index][name]), name
    assert not torch.equal(stacks[0]["clean"], other[0]["clean"])
    assert not torch.equal(stacks[0]["clean"], stacks[1]["clean"])
    validation = ValidationStacks(stacks, 3)
    assert len(validation) == 3
    assert torch.equal(validation[2]["clean"], stacks[2]["clean"])


def test_items_are_in_units_of_the_noise(stacks):
    strongest = []
    for index in range(80):
        item = stacks[index]
        assert item["clean"].shape == (CHANNELS, PATCH, PATCH)
        assert item["level"].shape == (1, PATCH, PATCH)
        assert item["scale"].shape == item["used"].shape == (CHANNELS,)
        assert {value.dtype for value in item.values()} == {torch.float32}
        used = item["used"].bool()
        assert used[0]
        assert (item["scale"] >= WEAKEST).all()
        assert (item["scale"][~used] == WEAKEST).all()
        assert (item["clean"][~used] == 0).all()
        ratio = item["clean"][used].flatten(1).std(1) / item["scale"][used]
        assert (ratio < 8).all()
        strongest.append(float(item["scale"].max()))
    assert min(strongest) < 1
    assert max(strongest) > 30


def test_noise_maps_cover_what_scenes_show(stacks):
    levels = torch.stack([stacks[index]["level"] for index in range(200)])
    missing = levels == MISSING
    assert (levels > 0).all()
    assert levels[~missing].max() < 1e3
    even = (levels == 1).flatten(1).all(1).float().mean()
    assert 0.35 < even < 0.65
    share = missing.flatten(1).float().mean(1)
    assert 0.1 < (share > 0).float().mean() < 0.5
    assert share.max() < 0.95
    columns = (missing.all(2) | missing.all(3)).flatten(1).any(1)
    assert columns.any()
    uneven = (levels != 1).flatten(1).any(1) & (share == 0)
    assert 0.1 < uneven.float().mean() < 0.5


def test_no_scene_is_an_error():
    with pytest.raises(InputError, match="no training scene"):
        EigenStacks([], PATCH, 0)
