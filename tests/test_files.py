"""Files are complete or not there, whichever library writes them."""

import resource
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from sertune.errors import SertuneError
from sertune.files import check_writable, new_folder, replacing

LIMIT = 2000
WRITERS: list[Callable[[Path], object]] = [
    lambda file: file.write_text("x" * 10 * LIMIT),
    lambda file: pd.DataFrame({"a": range(LIMIT)}).to_parquet(file),
    lambda file: save_file({"a": torch.zeros(LIMIT)}, file),
]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, writer: Callable[[Path], object], before: str | None
) -> None:
    """A limit on the size of files stands in for a full disk: the operating system refuses the same calls."""
    file = tmp_path / "a file"
    if before:
        file.write_text(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        with pytest.raises(SertuneError) as caught, replacing(file) as part:
            writer(part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(f"{file}: can't be written (File too large); make room")
    assert [path.read_text() for path in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_ends_well_replaces(tmp_path: Path, writer: Callable[[Path], object]) -> None:
    file = tmp_path / "a file"
    file.write_text("old")
    with replacing(file) as part:
        writer(part)
        assert file.read_text() == "old"
    assert file.stat().st_size > LIMIT
    assert list(tmp_path.iterdir()) == [file]


def half_a_file(file: Path) -> None:
    with replacing(file) as part:
        part.write_text("half")
        raise KeyboardInterrupt


def half_a_folder(folder: Path) -> None:
    with new_folder(folder) as work:
        (work / "file").write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", [half_a_file, half_a_folder])
def test_an_error_of_another_kind_passes_and_leaves_nothing(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_when_it_is_complete(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "above" / "folder"
    if there:
        folder.mkdir(parents=True)
    with new_folder(folder) as work:
        (work / "a").write_text("x")
        assert not folder.exists() or not any(folder.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert (folder / "a").read_text() == "x"
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_below_a_file_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_writable(tmp_path / "new" / "folder")
    check_writable(tmp_path)
    with pytest.raises(SertuneError, match=r"can't be made, as .*file is a file"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(SertuneError, match="can't be written"), new_folder(tmp_path / "file" / "folder"):
        pass
