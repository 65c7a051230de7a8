"""What `sertune search` is told beside the settings of the runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sertune.errors import SertuneError, unknown

PROTOCOLS = {
    "nested": "settings are chosen by folds over the speakers that the test leaves, each fold in turn the dev part",
    "holdout": "settings are chosen by one dev part, of speakers that neither train nor test",
    "paper-d": "clips at random, stratified: 80 % and 20 % for test; settings are chosen by 20 % of the 80",
}


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        preset: a space that comes with sertune; empty: none.
        space: entries that go over the preset's; see `sertune.train.search.space`.
        sampler, pruner: see `sertune.train.search.samplers`; no pruner: `median`, with several objectives `none`.
        trials: of each search; 0: as many as the minutes allow.
        minutes: of this command, the states' included; 0: as long as the trials take.
        protocol: one of `PROTOCOLS`.
        inner_folds: of `nested`.
        confirm: best trials that are scored again on other folds, which then choose; 0: the best score wins.
        seeds: with which the winner is trained.
        workers: of this command, side by side; 0: as many as pay.
        objectives: names; empty: the score alone.
        constraints: such as ``latency<20``.
        storage: a Journal file or a ``postgresql://`` address; empty: a Journal in the search's folder.
        study: its name in the storage; empty: that of the folder.
        given: keys that the command line sets by flags, which are not searched then.
    """

    preset: str = ""
    space: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "gp"
    pruner: str = ""
    trials: int = 15
    minutes: float = 0.0
    protocol: str = "nested"
    inner_folds: int = 4
    confirm: int = 3
    seeds: int = 3
    workers: int = 0
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    storage: str = ""
    study: str = ""
    given: frozenset[str] = frozenset()

    def check(self, samplers: tuple[str, ...], pruners: tuple[str, ...], presets: tuple[str, ...]) -> None:
        """Raises `SertuneError` for the first option that makes no sense."""
        for what, value, known in (
            ("sampler", self.sampler, samplers),
            ("pruner", self.pruner, pruners),
            ("protocol", self.protocol, tuple(PROTOCOLS)),
            ("preset", self.preset or presets[0], presets),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if self.trials < 0 or (self.trials == 0 and not self.minutes and self.sampler != "grid"):
            raise SertuneError(f"--trials {self.trials}: a budget too small for one trial; expected 1 or more")
        if self.minutes < 0:
            raise SertuneError(f"--minutes {self.minutes:g}: expected a number above 0")
        if self.inner_folds < 2:
            raise SertuneError(f"--inner-folds {self.inner_folds}: expected 2 or more, or --protocol holdout")
        if self.confirm < 0:
            raise SertuneError(f"--confirm {self.confirm}: expected 0 or more")
        if self.seeds < 1:
            raise SertuneError(f"--winner-seeds {self.seeds}: expected 1 or more")
        if not self.preset and not self.space:
            raise SertuneError(
                f"nothing to search: name a --preset ({', '.join(presets)}), or keys in --space FILE.yaml"
            )
        several = len(self.objectives) > 1
        if several and self.sampler == "cmaes":
            raise SertuneError("--sampler cmaes: knows one objective only; take gp or tpe for several")
        if several and self.pruner != "none":
            raise SertuneError(f"--pruner {self.pruner}: can't compare trials by several objectives; take none")
