"""Shipped settings of the depth domain; choose one with ``-c NAME``."""
