"""The ray caster: known answers, seeds, and every layout."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.renderer import LAYOUTS, Scenes, draw_scene, render, shapes
from diffusion_suite.depth.renderer.builder import Builder, finished
from diffusion_suite.depth.renderer.scenes import KINDS


def scene(*solids: tuple[str, tuple[float, ...], tuple[float, ...]]) -> Scenes:
    """Solids seen from the origin along z, with an angle of view of 90 degrees."""
    builder = Builder(numpy_generator(0, "test scene"))
    for kind, at, half in solids:
        builder.add(kind, at, half, builder.material("plain"))
    found = finished(builder, (0, 0, 0), (0, 0, 1), True, [((0, 2, 0), 1.0)])
    return replace(found, view=torch.diag(torch.tensor([1.0, -1.0, 1.0]))[None], slope=torch.ones(1))


def test_wall_has_one_depth_and_faces_the_camera() -> None:
    views = render(scene(("box", (0, 0, 3.5), (9, 9, 0.5))), 24, 32)
    assert_close(views.depth, torch.full((1, 1, 24, 32), 3.0))
    assert_close(views.normal, torch.tensor([0.0, 0, -1]).reshape(1, 3, 1, 1).expand(1, 3, 24, 32))
    assert float(views.focal) == 16.0
    assert not views.sky.any()


def test_floor_depth_is_height_over_slope() -> None:
    views = render(scene(("box", (0, -2.5, 0), (50, 1, 50))), 32, 32)
    rows = (torch.arange(32) + 0.5 - 16) / 16
    expected = torch.where(rows > 0, 1.5 / rows, torch.inf)
    near = expected < 45
    assert_close(views.depth[0, 0, :, 10][near], expected[near], rtol=1e-4, atol=1e-4)
    assert views.sky[0, 0, :16].all()
    assert_close(views.normal[0, :, 31, 5], torch.tensor([0.0, -1.0, 0.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_hits_lie_on_the_surface(kind: str) -> None:
    half = (0.7, 1.1, 0.5)
    views = render(scene((kind, (0.2, -0.1, 4.0), half)), 40, 40)
    grid = (torch.arange(40) + 0.5 - 20) / 20
    depth = views.depth[0, 0]
    hit = torch.isfinite(depth)
    assert 40 < int(hit.sum()) < 400
    x, y = depth * grid[None, :] - 0.2, -depth * grid[:, None] + 0.1
    at = torch.stack([x, y, depth - 4.0], -1)[hit] / torch.tensor(half)
    radius = {
        "box": at.abs().amax(-1),
        "ellipsoid": at.norm(dim=-1),
        "cylinder": torch.maximum(at[:, [0, 2]].norm(dim=-1), at[:, 1].abs()),
    }[kind]
    assert_close(radius, torch.ones_like(radius), rtol=0, atol=1e-4)
    assert_close(views.normal.norm(dim=1)[0][hit], torch.ones(int(hit.sum())))
    assert (views.normal[0, 2][hit] < 1e-3).float().mean() > 0.9


def test_ellipsoid_of_equal_axes_is_met_where_a_ball_is() -> None:
    origin, direction = torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.1, 1.0]])
    t = shapes.ellipsoid(origin, direction, torch.ones(1, 3))
    slope = 0.1
    expected = (3 - math.sqrt(9 - (1 + slope**2) * 8)) / (1 + slope**2)
    assert float(t) == pytest.approx(expected, abs=1e-5)


def test_nearer_solid_hides_the_other_and_rays_start_outside() -> None:
    behind = ("box", (0.0, 0.0, 6.0), (9.0, 9.0, 0.5))
    assert float(
        render(scene(behind, ("ellipsoid", (0, 0, 3), (1, 1, 1))), 9, 9).depth[0, 0, 4, 4]
    ) == pytest.approx(2.0, abs=1e-4)
    assert float(
        render(scene(behind, ("box", (0, 0, 0), (2, 2, 2))), 9, 9).depth[0, 0, 4, 4]
    ) == pytest.approx(5.5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_draws_pictures_that_are_seeded(layout: str) -> None:
    scenes = Scenes.stack([draw_scene(3, index, layout) for index in range(3)])
    views = render(scenes, 24, 32)
    again = render(draw_scene(3, 1, layout), 24, 32)
    assert_close(views.rgb[1:2], again.rgb, rtol=0, atol=1e-4)
    assert torch.equal(views.sky[1:2], again.sky)
    assert bool((views.rgb >= 0).all() & (views.rgb <= 1).all())
    assert views.rgb.std() > 0.03
    found = views.depth[~views.sky]
    assert float(found.min()) > 0.01
    assert not torch.equal(views.depth[0], views.depth[1])
    assert np.log(np.quantile(found, 0.98) / np.quantile(found, 0.02)) > 0.2
