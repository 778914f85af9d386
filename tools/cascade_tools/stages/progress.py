"""Progress on stderr: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Advance(Protocol):
    """Reports `done` of `total` steps."""

    def __call__(self, done: int, total: int) -> None:
        """Take in how far the work is."""


@dataclass(frozen=True)
class Reporter:
    """Says what is going on; everything goes to stderr, so stdout stays for results."""

    console: Console

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextmanager
    def task(self, text: str) -> Iterator[Advance]:
        """A piece of work with known steps."""
        if not self.console.is_terminal:
            self.say(text)
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(text, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


def stderr_reporter() -> Reporter:
    """The reporter of the command line."""
    return Reporter(Console(stderr=True))
