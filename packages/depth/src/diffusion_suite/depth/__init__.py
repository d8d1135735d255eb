"""Monocular depth with DepthFM."""
