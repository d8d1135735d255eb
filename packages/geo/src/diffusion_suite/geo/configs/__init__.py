"""Shipped settings of the geo domain; choose one with ``-c NAME``."""
