"""Progress bars on a terminal, silence elsewhere; messages on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Item = TypeVar("Item")


def on_terminal() -> bool:
    """Whether standard error is a terminal, i.e. whether a bar can be seen."""
    return bool(getattr(sys.stderr, "isatty", lambda: False)())


def say(message: str) -> None:
    """Print one line on standard error; above the bar where one is drawn."""
    print(message, file=sys.stderr, flush=True)


class Progress:
    """A progress bar on standard error, drawn only when that is a terminal.

    Example:
        >>> with Progress("windows", total=4) as bar:
        ...     for _ in range(4):
        ...         bar.advance()

    Args:
        description: what is counted.
        total: how many there are; None when not known.
        done: how many are done already.
        visible: draw the bar; None draws it on a terminal.
    """

    def __init__(
        self, description: str, total: int | None = None, done: int = 0, visible: bool | None = None
    ) -> None:
        self.description, self.total, self.done = description, total, done
        self.visible = on_terminal() if visible is None else visible
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        if self.visible:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Bar(*columns, *times, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, completed=self.done, note="")
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count on, and put a short note such as the loss behind the bar."""
        self.done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count)
            if note is not None:
                self._bar.update(self._task, note=note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Go through an iterable with a progress bar.

    Args:
        iterable: what to go through.
        description: what is counted.
        total: how many there are; ``len(iterable)`` when that is known and None is given.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total) as bar:
        for item in iterable:
            yield item
            bar.advance()
