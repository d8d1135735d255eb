"""From scenes to pictures: rays, the nearest solid, light, air, lens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from diffusion_suite.depth.renderer import shapes, textures
from diffusion_suite.depth.renderer.scenes import CAPACITY, KINDS, Scenes

CHUNK = 8
"""Solids that are met at a time, which bounds the memory."""


@dataclass(frozen=True)
class Views:
    """Pictures of scenes.

    Attributes:
        rgb: (batch, 3, height, width) in [0, 1], as a camera would save it.
        depth: (batch, 1, height, width) along the camera's axis, metres; inf in the sky.
        normal: (batch, 3, height, width) unit vectors in camera axes, 0 in the sky.
        focal: (batch,) in pixels.
    """

    rgb: Tensor
    depth: Tensor
    normal: Tensor
    focal: Tensor

    @property
    def sky(self) -> Tensor:
        """(batch, 1, height, width), True where nothing was met."""
        return torch.isinf(self.depth)


@dataclass(frozen=True)
class _Hit:
    """What rays meet; all (batch, rays, ...). `index` is 0 where `t` is infinite."""

    t: Tensor
    index: Tensor


@torch.no_grad()
def render(scenes: Scenes, height: int, width: int, noise: Tensor | None = None) -> Views:
    """Draw a batch of scenes.

    Args:
        scenes: on the device that shall draw.
        height: of the pictures in pixels.
        width: of the pictures in pixels.
        noise: standard normal values (batch, 3, height, width) of the sensor; None = a sensor without noise.
    """
    direction, focal = _rays(scenes, height, width)
    hit = _nearest(scenes, scenes.eye[:, None], direction)
    found = torch.isfinite(hit.t)
    t = torch.where(found, hit.t, 1.0)
    point = scenes.eye[:, None] + t[..., None] * direction
    albedo, normal, finish = _surface(scenes, hit.index, point)
    lit = _light(scenes, point, normal, albedo, finish, direction)
    clear = torch.exp(-scenes.fog[:, None] * t * direction.norm(dim=-1))[..., None]
    sky = _sky(scenes, direction)
    haze = scenes.sky[:, 1][:, None].expand_as(lit)
    colour = torch.where(found[..., None], torch.lerp(haze, lit, clear), sky)
    size = (len(scenes), height, width)
    rgb = _lens(scenes, colour.reshape(*size, 3).permute(0, 3, 1, 2), noise)
    own = torch.where(found[..., None], normal @ scenes.view, 0.0)
    return Views(
        rgb, hit.t.reshape(*size)[:, None], own.reshape(*size, 3).permute(0, 3, 1, 2).contiguous(), focal
    )


def _rays(scenes: Scenes, height: int, width: int) -> tuple[Tensor, Tensor]:
    """World directions (batch, rays, 3) whose part along the camera's axis is 1, and focal lengths."""
    focal = max(height, width) / 2 / scenes.slope
    device = scenes.eye.device
    rows = torch.arange(height, device=device) + 0.5 - height / 2
    columns = torch.arange(width, device=device) + 0.5 - width / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(1, -1, 2) / focal[:, None, None]
    return pad(grid, (0, 1), value=1.0) @ scenes.view.mT, focal


def _nearest(scenes: Scenes, origin: Tensor, direction: Tensor) -> _Hit:
    """First solid along each ray: `origin` (batch, 1 or rays, 3), `direction` (batch, rays, 3)."""
    best = direction.new_full(direction.shape[:2], torch.inf)
    index = torch.zeros(direction.shape[:2], dtype=torch.int64, device=direction.device)
    for kind in KINDS:
        block = scenes.used(kind)
        for first in range(block.start, block.stop, CHUNK):
            chosen = slice(first, min(first + CHUNK, block.stop))
            t, which = _meet(scenes, kind, chosen, origin, direction).min(1)
            nearer = t < best
            best, index = torch.where(nearer, t, best), torch.where(nearer, which + first, index)
    return _Hit(best, index)


def _meet(scenes: Scenes, kind: str, chosen: slice, origin: Tensor, direction: Tensor) -> Tensor:
    """(batch, k, rays) of t for some solids of one kind."""
    rotation, half = scenes.rotation[:, chosen], scenes.half[:, chosen, None]
    own_origin = (origin[:, None] - scenes.centre[:, chosen, None]) @ rotation
    own_direction = direction[:, None] @ rotation
    t = shapes.INTERSECT[kind](own_origin, own_direction, half.clamp_min(1e-6))
    return torch.where(half[..., 0] > 0, t, torch.inf)


def _surface(scenes: Scenes, index: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, world normal and finish where rays end."""

    def of(values: Tensor) -> Tensor:
        place = index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(*index.shape, *values.shape[2:])
        return values.gather(1, place)

    rotation, half = of(scenes.rotation), of(scenes.half)
    own = torch.einsum("brij,bri->brj", rotation, point - of(scenes.centre))
    borders = torch.tensor([CAPACITY["box"], CAPACITY["box"] + CAPACITY["ellipsoid"]], device=index.device)
    kind = (index[..., None] >= borders).sum(-1)
    own_normal = shapes.normal(kind, own, half.clamp_min(1e-6))
    colour = textures.colours(
        own, own_normal, half.clamp_min(1e-6), of(scenes.colour), of(scenes.pattern), of(scenes.texture)
    )
    return colour, torch.einsum("brij,brj->bri", rotation, own_normal), of(scenes.finish)


def _light(
    scenes: Scenes, point: Tensor, normal: Tensor, albedo: Tensor, finish: Tensor, direction: Tensor
) -> Tensor:
    """Light from points to the eye: ambient, Lambert and Blinn-Phong; the first light casts shadows."""
    up = 0.5 + 0.5 * normal[..., 1:2]
    colour = albedo * torch.lerp(scenes.ambient[:, None, 1], scenes.ambient[:, None, 0], up)
    towards_eye = normalize(-direction, dim=-1)
    for number in range(scenes.lights.shape[1]):
        place = scenes.lights[:, number, None]
        sun = (scenes.sun[:, None, None] > 0) & (number == 0)
        away = torch.where(sun, place.expand_as(point), place - point)
        distance = away.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        towards = away / distance
        strength = scenes.light_colour[:, number, None] / torch.where(sun, 1.0, 0.3 + distance.square())
        facing = (normal * towards).sum(-1, keepdim=True).clamp_min(0)
        if number == 0:
            start = point + 2e-3 * normal
            reach = torch.where(sun, 1e3, distance)
            blocked = _nearest(scenes, start, towards * reach).t < 0.999
            facing = facing * (~blocked).float()[..., None]
        middle = normalize(towards + towards_eye, dim=-1)
        highlight = (normal * middle).sum(-1, keepdim=True).clamp_min(0) ** 24 * (facing > 0)
        colour = colour + strength * (albedo * facing + finish[..., :1] * highlight)
    return colour + finish[..., 1:] * albedo


def _sky(scenes: Scenes, direction: Tensor) -> Tensor:
    towards = normalize(direction, dim=-1)
    height = towards[..., 1:2].clamp(0, 1).sqrt()
    blue = torch.lerp(scenes.sky[:, None, 1], scenes.sky[:, None, 0], height)
    place = towards / (towards[..., 1:2].abs() + 0.25) * 2.0
    seed = torch.zeros(place.shape[:-1], dtype=torch.int64, device=place.device)
    noise = textures.value_noise(place + 17.0 * scenes.eye[:, None], seed)
    cover = torch.sigmoid(14 * (noise - 1 + scenes.clouds[:, None]))[..., None]
    return torch.lerp(blue, scenes.sky[:, None].amax(2).clamp_min(0.75), 0.8 * cover)


def _lens(scenes: Scenes, colour: Tensor, noise: Tensor | None) -> Tensor:
    """Exposure, vignette, blur, tone curve, noise."""
    exposure, gamma, vignette, blur, grain = (v.reshape(-1, 1, 1, 1) for v in scenes.lens.unbind(1))
    height, width = colour.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=colour.device)[:, None]
    columns = torch.linspace(-1, 1, width, device=colour.device)
    fall = 1 - vignette * (rows.square() + columns.square()) / 2
    mean = colour.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    rgb = colour * (exposure / mean) * fall * scenes.tint[:, :, None, None]
    rgb = (rgb / (1 + 0.25 * rgb.square()).sqrt()).clamp(0, 1) ** (1 / gamma)
    rgb = _blurred(rgb, blur * max(height, width) / 100)
    return (rgb if noise is None else rgb + grain * noise).clamp(0, 1)


def _blurred(rgb: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of five taps a side, of another width for each picture."""
    offsets = torch.arange(-2, 3, device=rgb.device)
    kernel = torch.exp(-0.5 * (offsets / sigma.reshape(-1, 1).clamp(0.05, 1.5)).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    for axis in (2, 3):
        sides = (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0)
        taps = pad(rgb, sides, mode="replicate").unfold(axis, 5, 1)
        rgb = (taps * kernel[:, None, None, None]).sum(-1)
    return rgb
