"""Shipped settings of the core's own commands; choose one with ``-c NAME``."""
