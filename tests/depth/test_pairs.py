"""Pictures with depth from folders of every layout."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pairs_on_disk import SCALE, hypersim, parallel, room, sample, samples, virtual_kitti
from PIL import Image

from diffusion_suite.core.errors import InputError
from diffusion_suite.depth.pairs import beside, pairs_in


def test_samples_in_metres(tmp_path):
    pairs = pairs_in(samples(tmp_path / "all", 2, eval_crop=[4, 30, 2, 50]))
    assert [pair.name for pair in pairs] == ["s0", "s1"]
    found = pairs[1].read()
    assert found.rgb.shape == (40, 56, 3)
    assert np.isnan(found.depth[:5, :7]).all()
    assert_allclose(found.depth[5:], room(seed=1)[5:], atol=0.6 / SCALE)
    counts = pairs[1].counts(40, 56)
    assert counts[4:30, 2:50].all()
    assert counts.sum() == 26 * 48
    assert [pair.name for pair in pairs_in(tmp_path / "all" / "s1")] == ["s1"]


def test_disparities_become_depth_of_unknown_unit_or_metres(tmp_path):
    one = sample(tmp_path / "one", kind="disparity_px", scale=100)
    found = pairs_in(one)[0].read()
    assert found.relative
    assert_allclose(1 / found.depth[5:], 30 / room()[5:] - 2, atol=0.006)
    calibration = {"baseline": 0.3, "focal": 100, "disparity_offset": 2}
    other = pairs_in(sample(tmp_path / "two", kind="disparity_px", scale=1000, **calibration))[0].read()
    assert not other.relative
    assert_allclose(other.depth[5:], room()[5:], rtol=1e-3)


def test_folders_side_by_side(tmp_path):
    found = pairs_in(parallel(tmp_path))
    assert [pair.name for pair in found] == ["a", "b"]
    assert_allclose(found[0].read().depth, room(), atol=6e-4)
    assert_allclose(pairs_in(tmp_path, unit=0.01)[0].read().depth, 10 * room(), atol=6e-3)


def test_virtual_kitti(tmp_path):
    found = pairs_in(virtual_kitti(tmp_path))
    assert [pair.name for pair in found] == ["Scene01_fog_Camera_0_00000", "Scene01_fog_Camera_0_00001"]
    depth = found[0].read().depth
    assert np.isinf(depth[:6]).all()
    assert_allclose(depth[6:], room(36, 60)[6:], atol=0.006)


def test_hypersim(tmp_path):
    pytest.importorskip("h5py")
    folder = hypersim(tmp_path / "set")
    assert [pair.name for pair in pairs_in(folder)] == ["ai_001_001_cam_00_0000"]
    assert [pair.name for pair in pairs_in(folder, split="test")] == ["ai_001_001_cam_00_0002"]
    depth = pairs_in(folder)[0].read().depth
    assert np.isnan(depth[0, 0])
    assert_allclose(depth.ravel()[1:], 3.0, rtol=2e-3)
    assert len(pairs_in(hypersim(tmp_path / "other", split=False))) == 3


def test_maps_in_another_folder(tmp_path):
    parallel(tmp_path)
    pictures = sorted((tmp_path / "rgb").iterdir())
    assert [pair.truth.name for pair in beside(pictures, tmp_path / "depth")] == ["a.png", "b.png"]
    (tmp_path / "depth" / "b.png").unlink()
    with pytest.raises(InputError, match=r"no depth map for b.jpg"):
        beside(pictures, tmp_path / "depth")


def test_unusable_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no picture with depth"):
        pairs_in(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        pairs_in(tmp_path / "absent")
    folder = sample(tmp_path / "s")
    (folder / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"meta.json cannot be used"):
        pairs_in(tmp_path)
    for facts, message in (
        ({"kind": "distance", "scale": 1}, "kind 'distance'"),
        ({"scale": 1}, "KeyError"),
        ({"kind": "depth_m", "scale": 0}, "cannot be used"),
        ({"kind": "depth_m", "eval_crop": [1, 2]}, "2 numbers"),
    ):
        (folder / "meta.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=message):
            pairs_in(tmp_path)


def test_picture_and_depth_of_different_shapes_are_refused(tmp_path):
    folder = sample(tmp_path / "s")
    Image.new("RGB", (40, 56)).save(folder / "rgb.png")
    with pytest.raises(InputError, match=r"56 x 40 but .* is 40 x 56"):
        pairs_in(folder)[0].read()
