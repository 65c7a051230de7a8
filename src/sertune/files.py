"""Files and folders that are complete or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sertune.errors import SertuneError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; it takes the file's name when the block ends well, else it is removed.

    Raises:
        SertuneError: the disk is full, or the file can't be written for another reason.
    """
    part = file.with_name(file.name + ".part")
    try:
        yield part
        part.replace(file)
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in its own error
        raise unwritable(file, error) from error
    finally:
        _remove(part)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to fill; it takes the name when the block ends well, else it is removed.

    Args:
        folder: missing or empty; its parents are made.

    Raises:
        SertuneError: the disk is full, or the folder can't be made for another reason.
    """
    work: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        work.chmod(0o755)  # as mkdir would; mkdtemp's is for its owner alone
        yield work
        if folder.is_dir():
            folder.rmdir()  # it is empty: not every system renames onto a folder
        work.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    except SertuneError as error:  # the user knows the folder by its own name
        raise SertuneError(str(error).replace(str(work), str(folder))) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def check_writable(target: Path) -> None:
    """Looks whether ``target`` could be made, before work starts whose result would have no place.

    Raises:
        SertuneError: something above it is a file, or may not be written to, or its name is no text.
    """
    try:
        str(target).encode()
    except UnicodeEncodeError:
        raise SertuneError(f"{str(target)!a}: its name is not valid UTF-8; choose another") from None
    above = next(path for path in (target, *target.parents) if path.exists())
    if not above.is_dir():
        raise SertuneError(f"{target}: can't be made, as {above} is a file; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SertuneError(f"{target}: can't be written, as {above} may not be changed; choose another place")


def unwritable(target: Path, error: Exception) -> SertuneError:
    """The error for a file or folder that can't be written, in one line."""
    code = getattr(error, "errno", None)
    text = " ".join(str(error).split())
    reason = os.strerror(code) if code else text.rpartition("I/O error: ")[2].partition(" (os error")[0]
    return SertuneError(f"{target}: can't be written ({reason}); make room or choose another place, then run it again")


def _remove(file: Path) -> None:
    with suppress(OSError):  # the error that led here says more
        file.unlink(missing_ok=True)
