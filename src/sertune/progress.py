"""Progress of long work: a bar with a rate and the time left on a terminal, silence elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Called with the number of further units done."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar on standard error while the block runs.

    Args:
        title: what is being done.
        total: units of work.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(count: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=count, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def say(line: str) -> None:
    """One line for the person at the terminal (standard error; results go to standard output)."""
    print(line, file=sys.stderr, flush=True)
