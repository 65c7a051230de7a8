"""What a piece of work cost: seconds, seconds of the processors, and energy where it can be measured.

Energy is read from the processors' own counters (RAPL) where the system shows them, or else asked of codecarbon where
that is installed, which estimates it from load and rated power where it has no counters either. Where neither is there,
energy is not measured, and no figure is made up for it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Spent:
    """What a piece of work cost.

    Attributes:
        seconds: on the clock.
        cpu_seconds: of all the process's threads.
        watt_hours: energy; None where it is not measured.
    """

    seconds: float
    cpu_seconds: float
    watt_hours: float | None


class Rapl:
    """The energy counters of the processor packages and their memory, in microjoules.

    They count all that the machine does, not this process alone.

    Args:
        folder: where the kernel shows them.
    """

    source = "RAPL, the whole machine"

    def __init__(self, folder: Path) -> None:
        named = [
            zone for zone in sorted(folder.glob("intel-rapl:*")) if _text(zone / "name").startswith(("package", "dram"))
        ]
        self._zones = [(zone / "energy_uj", _number(zone / "max_energy_range_uj")) for zone in named]
        self._zones = [(file, most) for file, most in self._zones if _number(file) is not None]

    def __bool__(self) -> bool:
        return bool(self._zones)

    def begin(self) -> list[float]:
        """Where the counters are."""
        return [_number(file) or 0.0 for file, _ in self._zones]

    def end(self, before: list[float]) -> float | None:
        """Watt-hours since then; a counter that passed its end goes on from 0."""
        total = 0.0
        for (_, most), first, now in zip(self._zones, before, self.begin(), strict=True):
            total += now - first if now >= first else now - first + (most or 0.0)
        return total / 3.6e9


class CodeCarbon:
    """codecarbon's figures of this process.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code="USA",  # of emissions, which are not read
            output_methods=[],
            log_level="critical",
            measure_power_secs=1,
            tracking_mode="process",
            allow_multiple_runs=True,
        )
        self._count = 0

    @property
    def source(self) -> str:
        """How it came by the figures."""
        return "codecarbon, this process; where a part has no counters, estimated from its load and rated power"

    def begin(self) -> str:
        """Starts a piece of work."""
        self._count += 1
        name = str(self._count)
        self._tracker.start_task(name)
        return name

    def end(self, name: str) -> float | None:
        """Watt-hours of it."""
        found = self._tracker.stop_task(name)
        return 1000.0 * float(found.energy_consumed) if found is not None else None


class Meter:
    """Measures pieces of work, one after the other.

    Args:
        powercap: where the kernel shows energy counters.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap

    @cached_property
    def _counter(self) -> Any:
        """What measures energy, found when it is first needed, as codecarbon takes seconds to look around."""
        rapl = Rapl(self._powercap)
        return rapl if rapl else _codecarbon()

    @property
    def source(self) -> str:
        """Where energy comes from, or "not measured"."""
        return self._counter.source if self._counter is not None else NOT_MEASURED

    @property
    def measures_energy(self) -> bool:
        """Whether energy can be measured here."""
        return self._counter is not None

    @contextmanager
    def measured(self) -> Iterator[Callable[[], Spent]]:
        """Measures what is done in the block; what it gives says, after the block, what that cost."""
        counter, mark = self._counter, None
        began, cpu = time.perf_counter(), time.process_time()
        if counter is not None:
            mark = counter.begin()
        spent: list[Spent] = []
        try:
            yield lambda: spent[0]
        finally:
            used = counter.end(mark) if counter is not None else None
            spent.append(Spent(time.perf_counter() - began, time.process_time() - cpu, used))


def _codecarbon() -> CodeCarbon | None:
    """codecarbon, if it is installed and knows this machine."""
    try:
        return CodeCarbon()
    except Exception:  # of whatever it looks at; it is not worth a search
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    text = _text(file)
    return float(text) if text.isdigit() else None
