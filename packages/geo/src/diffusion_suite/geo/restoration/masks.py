"""A scene seen through a mask: what the mask hides is missing."""

from __future__ import annotations

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.geo.io import Scene
from diffusion_suite.geo.io.scene import Flags, Stored


class MaskedScene(Scene):
    """A scene with some of its samples withheld by a mask file.

    Args:
        scene: the scene.
        mask: scene of the same rows and columns, with one band or as many; 0 or nodata = missing.

    Raises:
        InputError: the mask has another shape.
    """

    def __init__(self, scene: Scene, mask: Scene) -> None:
        rows, cols, bands = scene.shape
        if mask.shape not in ((rows, cols, bands), (rows, cols, 1)):
            shapes = [" x ".join(map(str, one.shape)) for one in (mask, scene)]
            raise InputError(
                f"mask {mask.path} is {shapes[0]} but {scene.path.name} is {shapes[1]}",
                f"give a mask of {rows} x {cols} with 1 or {bands} bands, axes (rows, columns, bands)",
            )
        self.scene, self.mask = scene, mask
        self.path, self.format, self.shape = scene.path, scene.format, scene.shape
        self.dtype, self.nodata = scene.dtype, scene.nodata
        self.meta, self.key = scene.meta, scene.key

    def read_stored(self, rows: slice, cols: slice, step: int = 1) -> Stored:
        """Samples as they are stored, hidden ones too."""
        return self.scene.read_stored(rows, cols, step)

    def observed(self, stored: Stored, rows: slice, cols: slice, step: int = 1) -> Flags:
        """Which samples are measurements that the mask lets through."""
        return self.scene.observed(stored, rows, cols, step) & ~self.hidden(rows, cols, step)

    def hidden(self, rows: slice, cols: slice, step: int = 1) -> Flags:
        """Which samples the mask hides, shape (h, w, bands) or (h, w, 1)."""
        values, seen = self.mask.read(rows, cols, step)
        return np.asarray(~(seen & (values != 0)))

    def close(self) -> None:
        """Close the scene and the mask."""
        self.scene.close()
        self.mask.close()


def hidden_by_mask(scene: Scene, rows: slice, cols: slice) -> Flags | bool:
    """Which samples a mask hides; False where there is no mask."""
    return scene.hidden(rows, cols) if isinstance(scene, MaskedScene) else False
