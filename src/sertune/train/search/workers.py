"""Several workers on one machine: processes that share what the first one has read, by forking.

A step of a small encoder hardly gains from a second thread: on two cores two trials side by side, with one thread each,
take as long as one (`benchmarks/README.md`).
"""

import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from sertune.errors import SertuneError

MOST_WORKERS = 4
"""Workers where nobody says how many: each takes the memory of a training run."""
POLL_SECONDS = 0.2


class Counter:
    """Counts what forked workers have done.

    Args:
        most: how many there are to do.
    """

    def __init__(self, most: int) -> None:
        self._value = multiprocessing.get_context("fork").Value("q", 0) if most else None

    def up(self) -> None:
        """One more is done."""
        if self._value is not None:
            with self._value.get_lock():
                self._value.value += 1

    @property
    def value(self) -> int:
        """How many are done."""
        return int(self._value.value) if self._value is not None else 0


def choose_workers(wanted: int, work: int) -> int:
    """How many workers to start.

    Args:
        wanted: by the user; 0: as many as pay.
        work: pieces of work.

    Raises:
        SertuneError: several workers where they can't be forked.
    """
    able = sys.platform == "linux" and not torch.cuda.is_available()
    if wanted > 1 and not able:
        raise SertuneError(
            f"--workers {wanted}: several workers of one command need Linux and no GPU; start the same command several "
            "times instead, with one --storage"
        )
    most = wanted or (min(os.cpu_count() or 1, MOST_WORKERS) if able else 1)
    return max(1, min(most, work))


def in_parallel(count: int, work: Callable[[int], None], look: Callable[[], None] = lambda: None) -> None:
    """Runs ``work(0)`` to ``work(count - 1)``, each in a process of its own with its share of the threads.

    Args:
        count: of workers; 1 works in this process.
        work: is told which of them it is.
        look: is called now and then by this process while it waits.

    Raises:
        SertuneError: the first that a worker raised; the others are let finish what they do.
    """
    if count == 1:
        work(0)
        return
    context = multiprocessing.get_context("fork")
    alive_here, alive_there = os.pipe()
    children: list[tuple[Any, Connection]] = []
    try:
        for place in range(count):
            here, there = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(place, count, work, there, alive_here, alive_there))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside torch's idle threads
                child.start()
            there.close()
            children.append((child, here))
        _wait(children, look)
    finally:
        for child, _ in children:
            if child.is_alive():
                child.terminate()
            child.join()
        os.close(alive_here)
        os.close(alive_there)


def _wait(children: list[tuple[Any, Connection]], look: Callable[[], None]) -> None:
    while any(child.is_alive() for child, _ in children):
        time.sleep(POLL_SECONDS)
        look()
    errors = [said for _, pipe in children if (said := _said(pipe))]
    if errors:
        raise SertuneError(errors[0])
    if all(child.exitcode for child, _ in children):
        raise SertuneError(
            f"all workers were ended (the first with status {children[0][0].exitcode}); where that was for want of "
            "memory, take fewer --workers; the same command goes on"
        )


def _said(pipe: Connection) -> str:
    """The error that a worker ended with; empty where it had none, or was killed."""
    with suppress(EOFError):
        return str(pipe.recv())
    return ""


def _child(
    place: int, count: int, work: Callable[[int], None], pipe: Connection, alive_here: int, alive_there: int
) -> None:
    """One worker. It ends with the process that started it, however that ends."""
    os.close(alive_there)
    threading.Thread(target=_end_with_parent, args=(alive_here,), daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        work(place)
    except SertuneError as error:
        pipe.send(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent(alive: int) -> None:
    with suppress(OSError):
        os.read(alive, 1)
    os._exit(1)
