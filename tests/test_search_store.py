"""Studies that many workers share: as many trials as were asked for, none lost, none finished twice, whoever dies."""

import gc
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from postgres import find_binaries, server
from sertune.errors import SertuneError
from sertune.train.search import store
from sertune.train.search.store import (
    Claim,
    Turns,
    Worker,
    beating,
    close_storage,
    first_difference,
    latest,
    open_storage,
    open_study,
    shown,
    slots,
)

RECORD = {"space": {"x": [0, 1]}, "data": "d1"}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    with server(tmp_path_factory.mktemp("pytest-postgres"), binaries) as address:
        yield address


@pytest.fixture(params=["journal", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty storage of each kind; tests have studies of their own names."""
    return str(tmp_path / "study.journal") if request.param == "journal" else request.getfixturevalue("postgres")


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.node.name} {tmp_path.name}"


OPEN: list[optuna.storages.BaseStorage] = []
"""Closed after each test."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        close_storage(OPEN.pop())


def opened(where: str) -> optuna.storages.BaseStorage:
    OPEN.append(open_storage(where))
    return OPEN[-1]


def turns_of(where: str, name: str, budget: int = 4, worker: Worker | None = None) -> Turns:
    """A worker's view of a study, as a process of its own would have it."""
    storage = opened(where)
    study = open_study(storage, name, RECORD, ["maximize"], where)
    return Turns(storage, study, budget, worker or Worker.here(), where)


def claim(turns: Turns) -> Claim:
    found = turns.claim()
    assert found is not None
    return found


def dead_worker() -> Worker:
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return replace(Worker.here(), pid=child.pid, began=time.time() - 50, id=f"gone-{child.pid}", name="gone:1")


# -- slots -----------------------------------------------------------------------------------------------------------


def test_a_budget_is_kept_by_many_workers_at_once(where: str, name: str) -> None:
    """Eight threads with connections of their own ask for trials: exactly as many as there are slots are given."""
    turns_of(where, name)  # made once, as by whoever is first
    done: list[int] = []

    def work() -> None:
        turns = turns_of(where, name, budget=20)
        while (found := turns.claim()) is not None:
            x = found.trial.suggest_float("x", 0, 1)
            assert turns.complete(found, [x])
            done.append(found.slot)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(20))
    turns = turns_of(where, name, budget=20)
    assert turns.finished()
    assert [trial.state for trial in latest(turns.trials())] == [TrialState.COMPLETE] * 20


def test_a_larger_budget_goes_on_with_the_next_slots(where: str, name: str) -> None:
    turns = turns_of(where, name, budget=2)
    for _ in range(2):
        assert turns.complete(claim(turns), [0.5])
    assert turns.claim() is None
    more = turns_of(where, name, budget=4)
    assert [claim(more).slot, claim(more).slot] == [2, 3]
    assert more.claim() is None
    assert not more.finished()


def test_a_trial_of_a_dead_worker_is_taken_up_with_its_values_and_folds(where: str, name: str) -> None:
    gone = turns_of(where, name, budget=2, worker=dead_worker())
    lost = claim(gone)
    x = lost.trial.suggest_float("x", 0, 1)
    lost.trial.set_user_attr("folds", [{"score": 0.7}])
    alive = turns_of(where, name, budget=2)
    found = claim(alive)
    assert (found.slot, found.folds) == (0, [{"score": 0.7}])
    assert found.trial.suggest_float("x", 0, 1) == x
    assert found.trial.number != lost.trial.number
    # the dead comes back, and is too late
    assert not gone.complete(lost, [0.1])
    assert alive.complete(found, [0.9])
    assert alive.complete(claim(alive), [0.2])
    assert alive.claim() is None
    assert [trial.values for trial in latest(alive.trials())] == [[0.9], [0.2]]


def test_a_worker_that_dies_before_it_has_values_loses_nothing(where: str, name: str) -> None:
    claim(turns_of(where, name, budget=1, worker=dead_worker()))
    alive = turns_of(where, name, budget=1)
    found = claim(alive)
    assert found.slot == 0
    assert 0 <= found.trial.suggest_float("x", 0, 1) <= 1
    assert alive.complete(found, [1.0])
    assert alive.finished()


def test_a_trial_that_ends_all_its_workers_is_not_tried_for_ever(where: str, name: str) -> None:
    for _ in range(store.RETRIES + 1):
        claim(turns_of(where, name, budget=1, worker=dead_worker()))
    alive = turns_of(where, name, budget=1)
    assert alive.claim() is None
    assert alive.finished()
    (trial,) = latest(alive.trials())
    assert trial.state == TrialState.FAIL
    assert store.was_given_up(trial)


def test_a_stopped_trial_is_gone_on_with_however_often_it_is_stopped(where: str, name: str) -> None:
    for _ in range(store.RETRIES + 3):
        turns = turns_of(where, name, budget=1)
        found = claim(turns)
        assert found.slot == 0
        turns.stop(found)
    turns = turns_of(where, name, budget=1)
    assert turns.complete(claim(turns), [1.0])
    assert turns.finished()


def test_two_workers_who_find_the_same_loss_make_one_trial_of_it(
    where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both enqueue it; the second copy is given up when it is asked for."""
    lost = claim(turns_of(where, name, budget=1, worker=dead_worker()))
    one, other = turns_of(where, name, budget=1), turns_of(where, name, budget=1)
    one._give_up(lost.trial.number, store.ABANDONED)
    before = one.trials()
    for turns in (one, other):
        turns._take_up(before[lost.trial.number])
    assert [trial.state for trial in one.trials()].count(TrialState.WAITING) == 2
    found = claim(one)
    assert other.claim() is None
    assert one.complete(found, [1.0])
    assert other.finished()
    states = Counter(trial.user_attrs.get("given_up") for trial in one.trials())
    assert states == {None: 1, store.ABANDONED: 1, store.SURPLUS: 1}


def test_a_worker_elsewhere_is_gone_when_its_life_signs_stop(
    where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "GRACE_SECONDS", 0.6)
    monkeypatch.setattr(store, "BEAT_SECONDS", 0.1)
    elsewhere = replace(Worker.here(), host="another", id="other", name="another:7")
    far = turns_of(where, name, budget=1, worker=elsewhere)
    held = claim(far)
    here = turns_of(where, name, budget=1)
    with beating(held):
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert here.claim() is None
            time.sleep(0.1)
    until = time.monotonic() + 5
    while (found := here.claim()) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert found.slot == 0
    assert not far.complete(held, [0.0])


def test_a_reused_process_number_is_not_taken_for_the_worker() -> None:
    here = Worker.here()
    assert here.knows_dead(here.describe()) is False
    assert here.knows_dead({**here.describe(), "began": here.began - 1000}) is True
    assert here.knows_dead({**here.describe(), "host": "elsewhere"}) is None


def test_failures_count_and_are_not_repeated(where: str, name: str) -> None:
    turns = turns_of(where, name, budget=2)
    turns.fail(claim(turns), "it can't be had")
    turns.prune(claim(turns))
    assert turns.claim() is None
    first, second = latest(turns.trials())
    assert (first.state, first.user_attrs["error"]) == (TrialState.FAIL, "it can't be had")
    assert second.state == TrialState.PRUNED


WORK = """
import sys, time
from sertune.train.search.store import Turns, Worker, open_storage, open_study
where, name, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])
storage = open_storage(where)
study = open_study(storage, name, {"space": {"x": [0, 1]}, "data": "d1"}, ["maximize"], where)
turns = Turns(storage, study, budget, Worker.here(), where)
while True:
    found = turns.claim()
    if found is None:
        if turns.finished():
            break
        time.sleep(0.05)
        continue
    found.trial.suggest_float("x", 0, 1)
    print(found.slot, flush=True)
    time.sleep(0.1)
    turns.complete(found, [float(found.slot)])
"""


def start_worker(where: str, name: str, budget: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORK, where, name, str(budget)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_three_workers_of_which_one_is_killed_lose_nothing(where: str, name: str) -> None:
    budget = 24
    workers = [start_worker(where, name, budget) for _ in range(3)]
    stdout = workers[0].stdout
    assert stdout is not None
    first = stdout.readline()  # it is in the middle of a trial now
    assert first, workers[0].communicate()[1]
    workers[0].send_signal(signal.SIGKILL)
    for worker in workers[1:]:
        errors = worker.communicate(timeout=120)[1]
        assert worker.returncode == 0, errors
    workers[0].communicate()
    trials = turns_of(where, name, budget).trials()
    counted = slots(trials)
    complete = Counter(counted[trial.number] for trial in trials if trial.state == TrialState.COMPLETE)
    assert complete == dict.fromkeys(range(budget), 1)
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs["given_up"] in (store.ABANDONED, store.SURPLUS) for trial in lost)
    assert any(trial.user_attrs["given_up"] == store.ABANDONED for trial in lost)
    values = {counted[trial.number]: trial.values for trial in trials if trial.state == TrialState.COMPLETE}
    assert values == {slot: [float(slot)] for slot in range(budget)}


# -- opening ---------------------------------------------------------------------------------------------------------


def refusal(where: str) -> str:
    with pytest.raises(SertuneError) as caught:
        open_storage(where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_storages_that_can_not_be_used(tmp_path: Path) -> None:
    assert "SQLite loses studies on shared disks" in refusal("sqlite:///study.db")
    assert "unknown kind 'mongodb'" in refusal("mongodb://host/db")
    assert "is a folder; expected the name of a Journal file" in refusal(str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello\nworld\n")
    assert "is no Journal, is damaged, or is of another version" in refusal(str(tmp_path / "notes.txt"))
    (tmp_path / "odd.journal").write_text('{"op_code": 99, "worker_id": "a"}\n')
    assert "is no Journal, is damaged, or is of another version" in refusal(str(tmp_path / "odd.journal"))
    assert "as " in refusal(str(tmp_path / "notes.txt" / "study.journal"))
    assert (tmp_path / "notes.txt").read_text() == "hello\nworld\n"


def test_a_password_is_never_shown() -> None:
    said = refusal("postgresql://somebody:hunter2@127.0.0.1:1/none")
    assert "can't be reached" in said
    assert "hunter2" not in said
    assert shown("postgresql://somebody:hunter2@host/db") == "postgresql://somebody:***@host/db"
    assert shown("/data/study.journal") == "/data/study.journal"


def test_a_wrong_password_and_a_database_that_is_not_there(postgres: str) -> None:
    assert "password authentication failed" in refusal(postgres.replace(":s3cret@", ":wrong@"))
    assert 'database "nothing" does not exist' in refusal(postgres.replace("/postgres", "/nothing"))


def test_a_database_of_another_version(postgres: str, tmp_path: Path) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE older")
    older = postgres.replace("/postgres", "/older")
    opened(older)
    with psycopg.connect(older, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        connection.execute("UPDATE version_info SET library_version = '0.9.0', schema_version = 1")
    assert "is of another version of Optuna" in refusal(older)
    gc.collect()  # a connection that was left open would warn now


def test_a_study_with_another_record_is_an_error_that_names_the_difference(where: str, name: str) -> None:
    turns_of(where, name)
    storage = opened(where)
    changed = {**RECORD, "space": {"x": [0, 2]}}
    with pytest.raises(SertuneError, match=r"made with space: x = \[0, 1\], not \[0, 2\]; give the same search"):
        open_study(storage, name, changed, ["maximize"], where)
    with pytest.raises(SertuneError, match="was made with 1 objectives, not 2; give the same search"):
        open_study(storage, name, RECORD, ["maximize", "minimize"], where)


def test_a_study_of_somebody_else_is_left_alone(where: str, name: str) -> None:
    storage = opened(where)
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    study.tell(study.ask(), 1.0)
    with pytest.raises(SertuneError, match="was not made by sertune search"):
        open_study(storage, name, RECORD, ["maximize"], where)
    assert "sertune" not in study.user_attrs


def test_a_study_of_a_newer_sertune(where: str, name: str) -> None:
    turns = turns_of(where, name)
    turns.study.set_user_attr("sertune", {"format": 99, **RECORD})
    with pytest.raises(SertuneError, match=r"a newer sertune made it \(format 99"):
        turns_of(where, name)


def test_the_first_difference_of_records() -> None:
    assert first_difference({"a": {"b": [1, 2]}}, {"a": {"b": (1, 2)}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {}}) == ("a: b", "1", "None")
    assert first_difference({"a": 1.0}, {"a": 1}) is None


# -- the journal file ------------------------------------------------------------------------------------------------


def test_a_journal_whose_last_line_was_cut_off_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    turns = turns_of(str(file), "s", budget=3)
    assert turns.complete(claim(turns), [0.5])
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"worker_id":"x","stu')
    again = turns_of(str(file), "s", budget=3)
    assert file.read_bytes().startswith(whole)
    assert again.complete(claim(again), [0.6])
    for line in file.read_text().splitlines():
        json.loads(line)
    assert [trial.values for trial in latest(turns_of(str(file), "s", 3).trials())] == [[0.5], [0.6]]


def test_a_journal_cut_off_anywhere_can_be_gone_on_with(tmp_path: Path) -> None:
    """A kill or a full disk may leave any beginning of the file."""
    file = tmp_path / "whole.journal"
    turns = turns_of(str(file), "s", budget=3)
    for value in (0.1, 0.2):
        found = claim(turns)
        found.trial.suggest_float("x", 0, 1)
        assert turns.complete(found, [value])
    content = file.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for number, end in enumerate([*ends[::3], *(place - 7 for place in ends[1::4])]):
        part = tmp_path / f"part-{number}.journal"
        part.write_bytes(content[:end])
        own = turns_of(str(part), "s", budget=3, worker=replace(Worker.here(), id="next"))
        # whoever wrote this file has gone away
        for trial in own.trials():
            if trial.state == TrialState.RUNNING:
                own._give_up(trial.number, store.ABANDONED)
        while (next_one := own.claim()) is not None:
            next_one.trial.suggest_float("x", 0, 1)
            assert own.complete(next_one, [0.9])
        assert own.finished()
        assert len(latest(own.trials())) == 3


def test_a_lock_that_a_killed_process_left_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    file = tmp_path / "study.journal"
    turns_of(str(file), "s")
    Path(f"{file}.lock").symlink_to(file)
    quick = JournalFileSymlinkLock(str(file), grace_period=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "optuna.storages.journal.JournalFileBackend", lambda path: JournalFileBackend(path, lock_obj=quick)
        )
        began = time.monotonic()
        turns = turns_of(str(file), "s")
        assert turns.complete(claim(turns), [1.0])
        assert time.monotonic() - began > 1


def test_a_storage_that_goes_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = turns_of(str(tmp_path / "study.journal"), "s", budget=1)
    found = claim(turns)
    tell, failures = turns._tell, [0]

    def away(*args: Any) -> bool:
        failures[0] += 1
        if failures[0] < 3:
            raise optuna.exceptions.StorageInternalError("the server closed the connection")
        return tell(*args)

    monkeypatch.setattr(turns, "_tell", away)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert turns.complete(found, [1.0])
    monkeypatch.setattr(store, "PATIENCE_SECONDS", -1.0)
    failures[0] = 0
    with pytest.raises(SertuneError, match=r"does not answer .*; the same command goes on when it does"):
        turns.complete(found, [1.0])
