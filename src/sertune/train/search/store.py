"""Where a search is kept, and whose turn it is: studies that many workers share and that outlive each of them.

A study is Optuna's, in a Journal file or in PostgreSQL. What is added here is added by attributes of its trials alone,
so that it is the same in both, and any tool of Optuna's can look at it:

- **slots**: the budget of a study is a number of slots. A trial's slot is its rank among those that were not given up;
  one that lands beyond the budget is given up at once. So many workers make exactly as many trials as were asked for;
- **life signs**: a worker notes who it is and beats while its trial runs. The trial of a worker that is gone is given
  up, and enqueued again with the same values and with the folds that were already scored;
- **one result**: a trial is finished once. A worker that was taken for dead and comes back is told so.
"""

import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sertune.errors import SertuneError
from sertune.files import check_writable

FORMAT = 1
BEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0
"""A worker elsewhere whose life sign has not changed for so long is gone."""
RETRIES = 2
"""How often a trial is taken up again after its workers went away."""
PATIENCE_SECONDS = 120.0
"""How long a storage that stopped answering is waited for."""

SLOT, WORKER, BEAT, GIVEN_UP, RETRY_OF, RETRIED = "slot", "worker", "beat", "given_up", "retry_of", "retried"
ERROR, FOLDS = "error", "folds"
SURPLUS, ABANDONED, STOPPED = "surplus", "abandoned", "stopped"
"""Why a trial was given up: beyond the budget; its worker went away; its worker was stopped."""

Direction = Literal["maximize", "minimize"]


def open_storage(where: str) -> BaseStorage:
    """The storage of a file name (a Journal, made if it is not there) or of a ``postgresql://`` address.

    Raises:
        SertuneError: it can't be reached or read, is of another version, or is of another kind.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in where:
        return _open_journal(Path(where.removeprefix("journal:")))
    kind = where.partition("://")[0]
    if kind.startswith("sqlite"):
        raise SertuneError(
            f"storage {where}: SQLite loses studies on shared disks; give the name of a file, for a Journal, or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    if not re.fullmatch(r"postgres(ql)?(\+psycopg)?", kind):
        raise SertuneError(
            f"storage {shown(where)}: unknown kind {kind!r}; expected a file name, for a Journal, or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return _open_postgres(re.sub(r"^[^:]+", "postgresql+psycopg", where), shown(where))


def close_storage(storage: BaseStorage) -> None:
    """Gives back the connections of a storage."""
    engine = getattr(storage, "engine", None)
    if engine is not None:
        storage.remove_session()
        engine.dispose()


def shown(where: str) -> str:
    """The address of a storage without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", where)


def _open_journal(file: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file.is_dir():
        raise SertuneError(f"storage {file}: is a folder; expected the name of a Journal file")
    check_writable(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _mend(file)
        return JournalStorage(JournalFileBackend(str(file)))
    except OSError as error:
        raise SertuneError(f"storage {file}: can't be used ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise SertuneError(
            f"storage {file}: is no Journal, is damaged, or is of another version of Optuna ({_line(error)}); "
            "choose another --storage"
        ) from None


def _mend(file: Path) -> None:
    """Takes away a last line that was cut off, as by a full disk: what is appended to it would never be read."""
    if not file.is_file() or not file.stat().st_size:
        return
    from optuna.storages.journal import JournalFileSymlinkLock

    with file.open("rb+") as stream:
        if _ends_whole(stream):
            return
        lock = JournalFileSymlinkLock(str(file))
        lock.acquire()
        try:
            if not _ends_whole(stream):  # nobody else has mended it, or is writing
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        finally:
            with suppress(RuntimeError):
                lock.release()


def _ends_whole(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def _open_postgres(address: str, name: str) -> BaseStorage:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise SertuneError(f"storage {name}: needs a driver: pip install 'sertune[postgres]'") from None
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    storage = RDBStorage.__new__(RDBStorage)  # at hand where its set-up fails, to close what it has opened
    try:
        # a connection that was closed by the server is noticed before it is used
        engine = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        RDBStorage.__init__(storage, address, engine_kwargs=engine)
        return storage
    except RuntimeError as error:
        storage.engine.dispose()
        raise SertuneError(f"storage {name}: is of another version of Optuna ({_line(error)})") from None
    except (SQLAlchemyError, OSError, ValueError) as error:
        raise SertuneError(
            f"storage {name}: can't be reached ({_line(error)}); is the server running, and are the name and the "
            "password right?"
        ) from None


def _line(error: BaseException) -> str:
    """An error's first words, without what SQLAlchemy adds."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return text[:200] or type(error).__name__


def open_study(
    storage: BaseStorage, name: str, record: dict[str, Any], directions: Sequence[Direction], where: str
) -> Study:
    """A study that is new or was made for the same search.

    Args:
        storage: that holds it.
        name: of it.
        record: what makes its trials comparable: space, data, settings, objectives.
        directions: ``maximize`` or ``minimize``, of each objective.
        where: the storage's address, for messages.

    Raises:
        SertuneError: there is a study of that name with another record, named by its first difference.
    """
    with patience(where):
        study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
        before = study.user_attrs.get("sertune")
        if before is None:
            if study.get_trials(deepcopy=False):
                raise SertuneError(
                    f"study {name!r} in {shown(where)}: was not made by sertune search; choose another --study"
                )
            study.set_user_attr("sertune", {"format": FORMAT, **record})
            before = study.user_attrs["sertune"]
    if before.get("format", 0) > FORMAT:
        raise SertuneError(
            f"study {name!r} in {shown(where)}: a newer sertune made it (format {before['format']}, this one reads up "
            f"to {FORMAT}); update sertune"
        )
    if len(study.directions) != len(directions):
        raise SertuneError(
            f"study {name!r} in {shown(where)}: was made with {len(study.directions)} objectives, not "
            f"{len(directions)}; give the same search to go on, or choose another --study (or --out)"
        )
    if difference := first_difference({key: before.get(key) for key in record}, record):
        key, old, new = difference
        raise SertuneError(
            f"study {name!r} in {shown(where)}: was made with {key} = {old}, not {new}; give the same search to go on, "
            "or choose another --study (or --out)"
        )
    return study


def first_difference(one: Any, other: Any, key: str = "") -> tuple[str, str, str] | None:
    """The first key under which two nested records differ, with both values as text."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            found = first_difference(one.get(name), other.get(name), f"{key}: {name}" if key else str(name))
            if found:
                return found
        return None
    same = (
        list(one) == list(other)
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple))
        else one == other
    )
    return None if same else (key, str(one)[:120], str(other)[:120])


@contextmanager
def patience(where: str) -> Iterator[None]:
    """Turns what a storage that went away raises into a clear error."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise SertuneError(
            f"storage {shown(where)}: does not answer ({_line(error.__cause__ or error)}); the same command goes on "
            "when it does"
        ) from None


@dataclass(frozen=True)
class Worker:
    """Who runs a trial.

    Attributes:
        host: the machine, as long as it has not been restarted, and the process's own view of it.
        pid: of the process.
        began: when the process began; its number may be given to another one later.
        id: of this worker alone.
        name: for people.
    """

    host: str
    pid: int
    began: float
    id: str
    name: str

    @staticmethod
    def here() -> "Worker":
        """This process."""
        import psutil

        node, pid = platform.node() or "localhost", os.getpid()
        host = "/".join([node, _read("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid")])
        return Worker(host, pid, psutil.Process(pid).create_time(), uuid4().hex, f"{node}:{pid}")

    def knows_dead(self, other: dict[str, Any]) -> bool | None:
        """Whether another worker of this machine is gone; None for one elsewhere."""
        import psutil

        if other.get("host") != self.host:
            return None
        try:
            process = psutil.Process(int(other["pid"]))
            gone = process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - other["began"]) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return None
        return bool(gone)

    def describe(self) -> dict[str, Any]:
        """As noted with a trial."""
        return {"host": self.host, "pid": self.pid, "began": self.began, "id": self.id, "name": self.name}


def _read(file: str) -> str:
    with suppress(OSError):
        return Path(file).read_text(encoding="utf-8").strip()
    return ""


def _link(file: str) -> str:
    with suppress(OSError):
        return str(Path(file).readlink())
    return ""


def slots(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Trial number -> slot, of the trials that count; a trial that was taken up again has the slot of the first."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    place = 0
    for trial in trials:
        if trial.user_attrs.get(GIVEN_UP) == SURPLUS:
            continue
        of = trial.user_attrs.get(RETRY_OF)
        if of is None:
            found[trial.number] = place
            place += 1
        elif of in found and of not in taken:  # two workers may have enqueued it; the first one counts
            taken.add(of)
            found[trial.number] = found[of]
    return found


def latest(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trial that stands for each slot: the last one that was made for it, in the order of the slots."""
    where = slots(trials)
    by_slot = {where[trial.number]: trial for trial in trials if trial.number in where}
    return [by_slot[slot] for slot in sorted(by_slot)]


def was_given_up(trial: FrozenTrial) -> bool:
    """Whether a trial did not fail by itself, but lost its worker."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(GIVEN_UP) in (ABANDONED, STOPPED)


@dataclass
class Claim:
    """A trial that this worker runs.

    Attributes:
        trial: Optuna's.
        slot: of it.
        folds: what earlier workers found for single folds.
    """

    trial: Trial
    slot: int
    folds: list[dict[str, Any]]


@dataclass
class Turns:
    """Hands out the trials of one study.

    Attributes:
        storage: that holds it.
        study: shared by all workers.
        budget: slots of the study.
        worker: this process.
        where: the storage's address, for messages.
    """

    storage: BaseStorage
    study: Study
    budget: int
    worker: Worker
    where: str
    _seen: dict[tuple[int, Any], float] = field(default_factory=dict)

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they are now."""
        with patience(self.where):
            return self.study.get_trials(deepcopy=False)

    def claim(self) -> Claim | None:
        """A trial to run now; None where all slots are taken.

        Raises:
            SertuneError: the storage went away.
        """
        while True:
            with patience(self.where):
                self._recover()
                trials = self.trials()
                waiting = any(trial.state == TrialState.WAITING for trial in trials)
                if not waiting and len(latest(trials)) >= self.budget:
                    return None
                trial = self.study.ask()
                trial.set_user_attr(WORKER, self.worker.describe())
                claim = self._settle(trial)
            if claim is not None:
                return claim

    def _settle(self, trial: Trial) -> Claim | None:
        """What a new trial is for; None, and given up, where others took its place."""
        trials = self.trials()
        slot = slots(trials).get(trial.number)
        if slot is None or slot >= self.budget:
            self._give_up(trial.number, SURPLUS)
            return None
        trial.set_user_attr(SLOT, slot)
        own = trials[trial.number]
        return Claim(trial, slot, list(own.user_attrs.get(FOLDS, [])))

    def finished(self) -> bool:
        """Whether every slot has a trial that ended; those of dead workers are given up and enqueued on the way."""
        with patience(self.where):
            self._recover()
        found = latest(self.trials())
        return len(found) >= self.budget and all(trial.state.is_finished() for trial in found)

    def stop(self, claim: Claim) -> None:
        """Gives a claimed trial up, for somebody to go on with."""
        self._give_up(claim.trial.number, STOPPED)

    def fail(self, claim: Claim, error: str) -> None:
        """Notes that a trial failed by itself."""
        with patience(self.where):
            claim.trial.set_user_attr(ERROR, error)
            self._tell(claim.trial.number, TrialState.FAIL)

    def prune(self, claim: Claim) -> None:
        """Notes that a trial was ended as it was worse than others."""
        self._tell_patiently(claim, TrialState.PRUNED, None)

    def complete(self, claim: Claim, values: Sequence[float]) -> bool:
        """Notes a trial's result; False where another worker took it over meanwhile."""
        return self._tell_patiently(claim, TrialState.COMPLETE, values)

    def _tell_patiently(self, claim: Claim, state: TrialState, values: Sequence[float] | None) -> bool:
        """A result is not lost because the storage is away for a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with patience(self.where):
                    return self._tell(claim.trial.number, state, values)
            except SertuneError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(2.0)

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Finishes a trial, unless it is finished."""
        try:
            self.study.tell(number, list(values) if values is not None else None, state=state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if self.study.get_trials(deepcopy=False)[number].state.is_finished():
                return False
            raise
        return True

    def _give_up(self, number: int, why: str) -> None:
        with patience(self.where):
            study = self.storage.get_study_id_from_name(self.study.study_name)
            trial = self.storage.get_trial_id_from_study_id_trial_number(study, number)
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # somebody was faster
                self.storage.set_trial_user_attr(trial, GIVEN_UP, why)
                self._tell(number, TrialState.FAIL)

    def _recover(self) -> None:
        """Gives up the trials of workers that are gone, and enqueues again what was given up."""
        trials = self.study.get_trials(deepcopy=False)
        lost = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_dead(trial)]
        for trial in lost:
            self._give_up(trial.number, ABANDONED)
        if lost:
            trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        where = slots(trials)
        for trial in trials:
            if was_given_up(trial) and trial.number not in again and where.get(trial.number, self.budget) < self.budget:
                self._take_up(trial)

    def _take_up(self, trial: FrozenTrial) -> None:
        retried = trial.user_attrs.get(RETRIED, 0) + (trial.user_attrs[GIVEN_UP] == ABANDONED)
        if retried > RETRIES:
            return
        attributes = {RETRY_OF: trial.number, RETRIED: retried, FOLDS: trial.user_attrs.get(FOLDS, [])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study.enqueue_trial(dict(trial.params), user_attrs=attributes)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is gone."""
        owner = trial.user_attrs.get(WORKER, {})
        if owner.get("id") == self.worker.id:
            return False
        dead = self.worker.knows_dead(owner) if owner else None
        if dead is not None:
            return dead
        sign = (trial.number, trial.user_attrs.get(BEAT))
        return time.monotonic() - self._seen.setdefault(sign, time.monotonic()) > GRACE_SECONDS


@contextmanager
def beating(claim: Claim) -> Iterator[None]:
    """Gives life signs of a trial while the block runs."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(BEAT_SECONDS):
            count += 1
            # a storage that is away for a moment costs a beat, not the trial
            with suppress(Exception):
                claim.trial.set_user_attr(BEAT, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
