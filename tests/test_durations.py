"""Lengths of files: kept in the user's cache, right after changes, and never in the way."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sertune.data import durations
from sertune.data.audio import header_seconds
from sertune.data.durations import file_seconds

RATE = 8000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and tables for three files already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(durations, "KEPT_FROM", 3)
    return tmp_path / "cache" / "sertune" / "durations"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened, in order."""
    names: list[str] = []
    read = header_seconds

    def noted(file: str) -> float:
        names.append(os.path.basename(file))  # noqa: PTH119
        return read(file)

    monkeypatch.setattr(durations, "header_seconds", noted)
    return names


def clips(folder: Path, count: int = 4) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i}.wav" for i in range(count)]
    for i, file in enumerate(files):
        soundfile.write(file, np.zeros(RATE // 10 * (i + 1)), RATE)
    return files


def test_files_are_opened_once(tmp_path: Path, opened: list[str]) -> None:
    files = clips(tmp_path / "a") + clips(tmp_path / "b" / "c")
    expected = [0.1, 0.2, 0.3, 0.4] * 2
    np.testing.assert_allclose(file_seconds(files), expected)
    assert len(opened) == 8
    np.testing.assert_allclose(file_seconds([str(file) for file in files]), expected)
    np.testing.assert_allclose(file_seconds(files[::-1]), expected[::-1])
    assert len(opened) == 8


def test_only_what_is_new_or_changed_is_opened(tmp_path: Path, opened: list[str]) -> None:
    files = clips(tmp_path / "a")
    file_seconds(files)
    soundfile.write(files[1], np.zeros(RATE), RATE)  # another size
    before = files[2].stat()
    soundfile.write(files[2], np.ones(RATE // 10 * 3), RATE)  # the same size, another time
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    (tmp_path / "a" / "new.wav").write_bytes(files[0].read_bytes())
    files[3].unlink()
    opened.clear()
    result = file_seconds([*files, tmp_path / "a" / "new.wav"])
    np.testing.assert_allclose(result, [0.1, 1.0, 0.3, np.nan, 0.1])
    assert opened == ["1.wav", "2.wav", "new.wav"]
    opened.clear()
    file_seconds([*files, tmp_path / "a" / "new.wav"])
    assert opened == []


def test_relative_paths_and_links_are_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    files = clips(tmp_path / "a")
    file_seconds(files)
    monkeypatch.chdir(tmp_path)
    opened.clear()
    assert file_seconds(["a/0.wav", "a/../a/1.wav", "./a/2.wav"])[2] == pytest.approx(0.3)
    assert opened == []


def test_broken_files_are_nan_and_tried_again(tmp_path: Path, opened: list[str]) -> None:
    files = clips(tmp_path / "a", 5)
    files[0].write_bytes(b"")
    files[4].unlink()
    files[4].symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        np.testing.assert_allclose(file_seconds(files), [np.nan, 0.2, 0.3, 0.4, np.nan])
    assert opened == ["0.wav", "1.wav", "2.wav", "3.wav", "0.wav"]


def test_few_files_write_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "KEPT_FROM", 5)
    file_seconds(clips(tmp_path / "a", 4))
    assert not cache.exists()
    assert file_seconds([]).shape == (0,)


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really PAR1", None])
def test_a_damaged_table_is_written_again(tmp_path: Path, cache: Path, opened: list[str], damage: bytes | None) -> None:
    files = clips(tmp_path / "a")
    file_seconds(files)
    (table,) = cache.iterdir()
    sound = table.read_bytes()
    if damage is None:  # a table of something else
        import pandas as pd

        pd.DataFrame({"file": [1]}).to_parquet(table)
    else:
        table.write_bytes(damage)
    np.testing.assert_allclose(file_seconds(files), [0.1, 0.2, 0.3, 0.4])
    assert len(opened) == 8
    assert table.read_bytes() == sound
    assert [path.name for path in cache.iterdir()] == [table.name]


def test_a_cache_that_cant_be_written_is_no_error(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = clips(tmp_path / "a")
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    np.testing.assert_allclose(file_seconds(files), [0.1, 0.2, 0.3, 0.4])
    cache.parent.unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    np.testing.assert_allclose(file_seconds(files), [0.1, 0.2, 0.3, 0.4])
    assert list(cache.iterdir()) == []


def test_another_table_for_another_folder_and_both_stay(tmp_path: Path, cache: Path, opened: list[str]) -> None:
    one, two = clips(tmp_path / "a"), clips(tmp_path / "b")
    file_seconds(one)
    file_seconds(two)
    assert len(list(cache.iterdir())) == 2
    more = clips(tmp_path / "a" / "below")
    file_seconds([*one[:1], *more])  # in common with the first: one of its files, and others
    opened.clear()
    file_seconds(one + more)
    file_seconds(two)
    assert opened == []


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there")
def test_names_that_are_no_text(tmp_path: Path, opened: list[str]) -> None:
    folder = (clips(tmp_path / "a")[0].parent).rename(tmp_path / os.fsdecode(b"sch\xf6n"))
    files = sorted(folder.iterdir())
    for _ in range(2):
        np.testing.assert_allclose(file_seconds(files), [0.1, 0.2, 0.3, 0.4])
    assert len(opened) == 4


def test_slow_disks_are_read_by_several_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    threads = set()

    def slow(file: str) -> float:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return float(Path(file).stem)

    monkeypatch.setattr(durations, "header_seconds", slow)
    names = [f"/nowhere/{i}.wav" for i in range(400)]
    np.testing.assert_array_equal(durations._opened(names), np.arange(400))
    assert len(threads) > 2


def test_two_processes_write_whole_tables(tmp_path: Path, cache: Path) -> None:
    """Each writes to a name of its own and renames it: a reader sees one table or the other."""
    import subprocess
    import sys

    files = clips(tmp_path / "a", 6)
    code = """
import sys
from sertune.data import durations
from sertune.data.audio import header_seconds

durations.KEPT_FROM = 3
for _ in range(20):
    for table in (durations.cache_folder() / "durations").glob("*.parquet"):
        table.unlink(missing_ok=True)
    assert abs(durations.file_seconds(sys.argv[1:]).sum() - 2.1) < 1e-9
"""
    commands = [[sys.executable, "-c", code, *map(str, files)] for _ in range(2)]
    running = [subprocess.Popen(command, env={**os.environ}) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    (table,) = cache.iterdir()
    assert stat.S_ISREG(table.stat().st_mode)
    assert len(durations._load(table)) == 6
