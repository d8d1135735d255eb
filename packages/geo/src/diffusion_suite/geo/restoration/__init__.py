"""Restoration of hyperspectral cubes: denoising, completion, spatial super-resolution."""
