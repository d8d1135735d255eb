"""Errors that a user can mend, each one line: what is wrong, where, and the remedy."""

from __future__ import annotations


class SuiteError(Exception):
    """A problem that the user can mend; the command line prints it as one line and exits with 2.

    Args:
        problem: What is wrong and where (file, setting, value).
        remedy: What to do about it; may be empty.

    ``str(error)`` is ``"problem; remedy"`` on one line: line breaks and runs of blanks are folded.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.problem}; {self.remedy}" if self.remedy else self.problem
        return " ".join(text.split())


class ConfigError(SuiteError):
    """A setting, a configuration file or a command line that cannot be used.

    Args:
        problem: What is wrong.
        remedy: What to do about it; may be empty.
        key: The dotted setting at fault; lets ``config.load`` name the layer that set it.
    """

    def __init__(self, problem: str, remedy: str = "", key: str = "") -> None:
        super().__init__(problem, remedy)
        self.key = key


class InputError(SuiteError):
    """An input file, folder or array that cannot be used."""


class OutputError(SuiteError):
    """An output that cannot be written, or that exists already."""


class CheckpointError(SuiteError):
    """A checkpoint that is missing, damaged or made for another network."""
