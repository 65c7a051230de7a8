"""Fetching corpora that may be had freely: licence, download with resume and checksum, unpacking."""

import hashlib
import http.client
import shutil
import stat
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final
from urllib.parse import urlsplit
from zlib import error as ZlibError

from sertune import __version__
from sertune.corpora import corpus
from sertune.corpora.info import CorpusInfo
from sertune.errors import SertuneError
from sertune.files import check_writable, new_folder, unwritable
from sertune.progress import progress, say


@dataclass(frozen=True)
class Download:
    """One archive of a corpus.

    Attributes:
        url: https.
        size: in bytes; 0: not known.
        algorithm: of the checksum, as hashlib names it; "" where none is published.
        digest: hexadecimal; "" where none is published.
        note: what differs from the corpus as described, e.g. another licence of this copy.
    """

    url: str
    size: int = 0
    algorithm: str = ""
    digest: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(urlsplit(self.url).path).name


DOWNLOADS: Final[dict[str, tuple[Download, ...]]] = {
    "emodb": (
        Download(
            "https://zenodo.org/records/7447302/files/emodb.zip?download=1",
            39_981_818,
            "md5",
            "9d21362dbc5676ef3ab4745d83ced0db",
            "this copy is version 1.3.0 in audformat, published under CC BY 4.0 (Zenodo 7447302)",
        ),
    ),
    "ravdess": (
        Download(
            "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
            208_468_073,
            "md5",
            "bc696df654c87fed845eb13823edef8a",
        ),
    ),
    "emozionalmente": (Download("https://zenodo.org/records/6569824/files/emozionalmente_dataset.zip?download=1"),),
    "nemo": (Download("https://github.com/amu-cai/nEMO/archive/06f1f83dde8f1a780443a57d53b2af3971af34ab.zip"),),
    "urdu": (
        Download("https://github.com/siddiquelatif/URDU-Dataset/archive/cab0028b1a1152e5cf25a5771c1ed137428a496e.zip"),
    ),
}
"""The archives of each corpus that is fetched; where the checksum is empty, none was found published."""

GUIDES: Final = {
    "cremad": "its audio is in git-lfs: git lfs install; git clone https://github.com/CheyneyComputerScience/CREMA-D",
    "tess": "download all files from https://doi.org/10.5683/SP2/E8H2MF and unpack them",
}
"""How to get corpora that are free, but not as one file."""

TRIES: Final = 3
"""Times that a broken connection is taken up again before the command stops."""
MOST_TIMES: Final = 20
"""Times its size that an archive may unpack to: audio and tables stay far below, a trap goes far beyond."""

_BLOCK: Final = 1 << 20
_SECONDS: Final = 60.0
_HERE: Final = ("localhost", "127.0.0.1", "::1")


def fetch(name: str, folder: Path, *, yes: bool = False, ask: Callable[[str], str] = input) -> int:
    """Fetch a corpus into a folder that its reader reads.

    The licence is shown and, at a terminal, agreed to first. What is downloaded so far is kept in
    ``FOLDER.download`` until all is unpacked; the same command goes on with it. The folder is there when it is
    complete.

    Args:
        name: of the corpus.
        folder: missing or empty.
        yes: the licence is agreed to.
        ask: shows a question and returns the answer.

    Returns:
        Number of utterances.

    Raises:
        SertuneError: it can't be fetched (the message says how to get it), the licence was not agreed to, the folder
            is not empty, there is no network, or the file is not what it should be.
    """
    info: CorpusInfo = corpus(name).INFO
    downloads = DOWNLOADS.get(name, ())
    if not downloads:
        raise SertuneError(how_to_get(info))
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise SertuneError(f"--to {folder}: is not empty; choose another folder")
    for download in downloads:
        _check_url(download.url)
    _agree(info, downloads, yes, ask)
    work = folder.absolute().with_name(f"{folder.absolute().name}.download")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(work, error) from error
    archives = [_fetched(download, work, info) for download in downloads]
    with new_folder(folder.absolute()) as target:
        for archive in archives:
            _unpack(archive, target)
    shutil.rmtree(work, ignore_errors=True)
    return len(corpus(name).read(folder))


def how_to_get(info: CorpusInfo) -> str:
    """How a corpus that is not fetched can be had, in one line."""
    if info.kind == "format":
        return f"{info.name} is a way to store data, not a corpus; name the data with --data {info.name}:..."
    if info.kind == "synthetic":
        return f"{info.name} is not fetched: {way(info)}"
    return (
        f"{info.name} can't be fetched: {way(info)} (from: {info.where}); then name the folder with --data "
        f"{info.name}:FOLDER, where FOLDER has {info.layout}"
    )


def way(info: CorpusInfo) -> str:
    """What to do to get a corpus that is not fetched."""
    if info.kind == "synthetic":
        return f"it is computed at its first use, with --data {info.name}"
    return info.request or GUIDES.get(info.name) or f"get it from {info.where}"


def _agree(info: CorpusInfo, downloads: tuple[Download, ...], yes: bool, ask: Callable[[str], str]) -> None:
    """Shows the licence and has it agreed to."""
    say(info.title)
    say(f"licence: {info.licence}; from: {info.where}")
    for download in downloads:
        size = f", {download.size / 1e6:.0f} MB" if download.size else ""
        say(f"file: {download.url}{size}{f'; {download.note}' if download.note else ''}")
        if not download.digest:
            say("no published checksum is known of this file: only the archive's own are checked")
    if yes:
        return
    if not sys.stdin.isatty():
        raise SertuneError(f"fetch {info.name}: the licence ({info.licence}) must be agreed to; say so with --yes")
    if ask("Fetch it under this licence? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SertuneError(f"fetch {info.name}: the licence was not agreed to; nothing was fetched")


# Download


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirection away from https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _HERE):
        raise SertuneError(f"{url}: is not https, so that what comes could be anybody's; nothing was fetched")


def _fetched(download: Download, folder: Path, info: CorpusInfo) -> Path:
    """The complete, checked file in a folder."""
    file = folder / download.name
    if not file.is_file():
        part = folder / f"{download.name}.part"
        for attempt in range(TRIES):
            try:
                _continue(download, part)
                break
            except (OSError, http.client.HTTPException, EOFError) as error:
                _explain(error, download, part, info, last=attempt == TRIES - 1)
        try:
            part.replace(file)
        except OSError as error:
            raise unwritable(file, error) from error
    _check(download, file)
    return file


def _explain(error: Exception, download: Download, part: Path, info: CorpusInfo, *, last: bool) -> None:
    """Raises the error for a download that failed, unless it is worth another try."""
    host = urlsplit(download.url).hostname
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        where = f"; look for it at: {info.where}" if error.code in (403, 404, 410) else "; try again later"
        raise SertuneError(f"{download.url}: the server says {error.code} {error.reason}{where}") from error
    done = part.stat().st_size if part.is_file() else 0
    reason = " ".join(str(getattr(error, "reason", error)).split())
    if isinstance(error, urllib.error.URLError) and not done:
        raise SertuneError(
            f"{host} can't be reached ({reason}); is there a network? Or fetch {download.url} elsewhere and put it "
            f"into {part.parent}"
        ) from error
    if last:
        raise SertuneError(
            f"{download.url}: the connection broke after {done / 1e6:.1f} MB ({reason}); the same command goes on from "
            "there"
        ) from error


def _continue(download: Download, part: Path) -> None:
    """Fetches what is missing of a file.

    Raises:
        EOFError: the connection ended too early.
    """
    stamp = part.with_name(f"{part.name}.stamp")  # tells whether the server's file is still the same
    done = part.stat().st_size if part.is_file() else 0
    mark = stamp.read_text("utf-8") if done and stamp.is_file() else ""
    headers = {"User-Agent": f"sertune/{__version__}", "Accept-Encoding": "identity"}
    if done and (mark or download.digest):
        headers["Range"] = f"bytes={done}-"
        if mark:
            headers["If-Range"] = mark
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        answer = opener.open(urllib.request.Request(download.url, headers=headers), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        complete = error.headers.get("Content-Range", "").rpartition("/")[2]
        if complete == str(done):
            return
        part.unlink()
        raise EOFError("it is longer than the server's file and was begun anew") from error
    with answer:
        going_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if not going_on:
            done = 0
        try:
            stamp.write_text(_mark(answer.headers), "utf-8")
        except OSError as error:
            raise unwritable(stamp, error) from error
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else download.size
        _receive(answer, part, done, total, append=going_on)


def _mark(headers: Mapping[str, str]) -> str:
    """What If-Range may be asked with: a strong ETag, or the time of the last change."""
    tag = headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""


def _receive(answer: Any, part: Path, done: int, total: int, *, append: bool) -> None:
    """Writes what comes to the end of the file; errors of the disk are told from those of the network here."""
    try:
        stream = part.open("ab" if append else "wb", buffering=0)
    except OSError as error:
        raise unwritable(part, error) from error
    with stream, progress(f"Fetching {part.stem} (MB)", total // 10**6) as advance:
        advance(done // 10**6)
        while block := answer.read(_BLOCK):
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError as error:
                raise unwritable(part, error) from error
            advance((done + len(block)) // 10**6 - done // 10**6)
            done += len(block)
    if done < total:
        raise EOFError(f"{total - done} bytes are missing")


def _check(download: Download, file: Path) -> None:
    """Raises `SertuneError` unless the file is the published one; a wrong one is removed."""
    size = file.stat().st_size
    wrong = ""
    if download.size and size != download.size:
        wrong = f"has {size} bytes, not {download.size}"
    elif download.digest:
        digest = hashlib.new(download.algorithm, usedforsecurity=False)
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != download.digest.lower():
            wrong = f"has the {download.algorithm} checksum {digest.hexdigest()}, not {download.digest}"
    if wrong:
        file.unlink()
        raise SertuneError(f"{download.url}: what came {wrong}; it was removed, run the command again")


# Unpacking

# A file in an archive: its path, its size as stated, whether it is a link or a device, and how to open it.
_Entry = tuple[PurePosixPath, int, bool, Callable[[], IO[bytes]]]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip or tar file into a folder; a single folder around everything is left out.

    Raises:
        SertuneError: a damaged archive, or one with a path that leads elsewhere, a link, a file twice, or far more in
            it than its size allows.
    """
    with ExitStack() as stack:
        try:
            entries = list(_entries(archive, stack))
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ZlibError) as error:
            raise _damaged(archive, error) from error
        _refuse_traps(archive, entries)
        tops = {path.parts[0] for path, *_ in entries}
        cut = 1 if len(tops) == 1 and all(len(path.parts) > 1 for path, *_ in entries) else 0
        with progress(f"Unpacking {archive.name}", len(entries)) as advance:
            for path, size, _, opened in entries:
                target = folder.joinpath(*path.parts[cut:])
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with opened() as source, target.open("xb") as stream:
                        _copy(archive, path, source, stream, size)
                except (zipfile.BadZipFile, tarfile.TarError, EOFError, ZlibError, RuntimeError) as error:
                    raise _damaged(archive, error) from error
                advance(1)


def _entries(archive: Path, stack: ExitStack) -> Iterator[_Entry]:
    """All files of an archive but what macOS adds; folders are made where a file needs them."""
    if zipfile.is_zipfile(archive):
        packed = stack.enter_context(zipfile.ZipFile(archive))
        for info in packed.infolist():
            if info.is_dir() or _is_leftover(info.filename):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            path = PurePosixPath(info.filename.replace("\\", "/"))
            yield path, info.file_size, kind not in (0, stat.S_IFREG), partial(packed.open, info)
        return
    tarred = stack.enter_context(tarfile.open(archive))  # noqa: SIM115 - the stack closes it
    for member in tarred:
        if member.isdir() or _is_leftover(member.name):
            continue
        yield PurePosixPath(member.name), member.size, not member.isreg(), partial(_opened, tarred, member)


def _opened(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tarred.extractfile(member)
    assert stream is not None  # it is a regular file
    return stream


def _is_leftover(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith("._")


def _refuse_traps(archive: Path, entries: list[_Entry]) -> None:
    seen: set[str] = set()
    for path, _, special, _ in entries:
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
            raise SertuneError(f"{archive}: holds a file outside its folder ({path}); nothing was unpacked")
        if special:
            raise SertuneError(f"{archive}: holds a link or a device ({path}); nothing was unpacked")
        if str(path).lower() in seen:
            raise SertuneError(f"{archive}: holds a file twice ({path}); nothing was unpacked")
        seen.add(str(path).lower())
    if not entries:
        raise SertuneError(f"{archive}: holds no file; remove it and run the command again")
    total = sum(size for _, size, *_ in entries)
    if total > MOST_TIMES * archive.stat().st_size:
        raise SertuneError(
            f"{archive}: would unpack to {total / 1e6:.0f} MB, more than {MOST_TIMES} times its own size; nothing was "
            "unpacked"
        )


def _copy(archive: Path, path: PurePosixPath, source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copies a file, but no more of it than was stated."""
    written = 0
    while block := source.read(_BLOCK):
        written += len(block)
        if written > size:
            raise SertuneError(f"{archive}: {path} is longer than the archive states; nothing was unpacked")
        target.write(block)


def _damaged(archive: Path, error: Exception) -> SertuneError:
    with suppress(OSError):
        archive.unlink()
    return SertuneError(
        f"{archive}: is damaged or no archive ({' '.join(str(error).split())}); it was removed, run the command again"
    )
