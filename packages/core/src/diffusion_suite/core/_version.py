"""The version of the suite: the one place, read by every distribution."""

__version__ = "0.1.0"
