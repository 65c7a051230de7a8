"""Fetching corpora: licence, resume, checksum, safe unpacking; against a server on this machine. And their list."""

import errno
import hashlib
import io
import json
import os
import re
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sertune.cli import main
from sertune.corpora import corpus, fetch, names
from sertune.corpora.fetch import DOWNLOADS, Download
from sertune.errors import SertuneError


class Server:
    """Serves ``content`` under any name; records what was asked for."""

    def __init__(self) -> None:
        self.content = b""
        self.etag: str | None = '"one"'
        self.ranges = True
        self.breaks: list[int] = []  # after so many bytes, each answer in turn
        self.status = 200
        self.location = ""
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers))
                outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        if self.status != 200:
            handler.send_response(self.status)
            if self.location:
                handler.send_header("Location", self.location)
            handler.end_headers()
            return
        first = 0
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = handler.headers.get("If-Range", self.etag) == self.etag
        if match and self.ranges and same:
            first = int(match[1])
            if first >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.content)}")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(self.content) - first))
        handler.end_headers()
        stop = first + self.breaks.pop(0) if self.breaks else len(self.content)
        handler.wfile.write(self.content[first:stop])


@pytest.fixture
def server() -> Iterator[Server]:
    serving = Server()
    thread = threading.Thread(target=serving.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.http.shutdown()
    thread.join()
    serving.http.server_close()


def packed(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def emodb(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An EmoDB as it is published, on the server; what sertune knows of it."""
    corpus("emodb").example(tmp_path / "source")
    files = {f"emodb/wav/{file.name}": file.read_bytes() for file in sorted((tmp_path / "source" / "wav").iterdir())}
    files |= {"emodb/db.yaml": b"name: emodb", "__MACOSX/emodb/._db.yaml": b"x"}
    server.content = packed(files)
    digest = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    download = Download(f"{server.url}/emodb.zip?download=1", len(server.content), "md5", digest)
    monkeypatch.setitem(DOWNLOADS, "emodb", (download,))
    return server.content


def get(folder: Path) -> int:
    return fetch.fetch("emodb", folder, yes=True)


# What comes


def test_a_corpus_is_fetched_and_read(
    emodb: bytes, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "emodb", "--to", "data/emodb", "--yes"]) == 0
    shown = capsys.readouterr()
    assert "licence: CC0" in shown.err
    assert shown.out == "emodb: 21 utterances; --data emodb:data/emodb\n"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["emodb"]
    assert sorted(path.name for path in (tmp_path / "data" / "emodb").iterdir()) == ["db.yaml", "wav"]
    assert len(server.asked) == 1
    assert main(["fetch", "emodb", "--to", "data/emodb", "--yes"]) == 1
    assert "data/emodb: is not empty" in capsys.readouterr().err


def test_the_licence_must_be_agreed_to(
    emodb: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["fetch", "emodb", "--to", str(tmp_path / "a")]) == 1
    assert "the licence (CC0) must be agreed to; say so with --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SertuneError, match="was not agreed to; nothing was fetched"):
        fetch.fetch("emodb", tmp_path / "a", ask=lambda _: "n")
    assert server.asked == []
    assert not (tmp_path / "a").exists()
    assert fetch.fetch("emodb", tmp_path / "a", ask=lambda _: "Yes") == 21


def test_a_broken_connection_is_taken_up_again(emodb: bytes, server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 2000]
    assert get(tmp_path / "a") == 21
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]
    assert server.asked[1]["If-Range"] == '"one"'


def test_the_same_command_goes_on(emodb: bytes, server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 0, 0]
    with pytest.raises(SertuneError, match=r"broke after 0.0 MB .*; the same command goes on from there"):
        get(tmp_path / "a")
    assert (tmp_path / "a.download" / "emodb.zip.part").read_bytes() == emodb[:1000]
    assert not (tmp_path / "a").exists()
    assert get(tmp_path / "a") == 21
    assert server.asked[-1]["Range"] == "bytes=1000-"
    assert not (tmp_path / "a.download").exists()


@pytest.mark.parametrize("change", ["etag", "no ranges", "no etag", "complete", "longer"])
def test_what_was_begun_is_used_only_where_it_fits(emodb: bytes, server: Server, tmp_path: Path, change: str) -> None:
    server.breaks = [1000, 0, 0]
    if change == "no etag":
        server.etag = None
    with pytest.raises(SertuneError, match="broke"):
        get(tmp_path / "a")
    part = tmp_path / "a.download" / "emodb.zip.part"
    if change == "etag":
        part.write_bytes(b"of an older file")
        server.etag = '"two"'
    elif change == "no ranges":
        server.ranges = False
    elif change == "complete":
        part.write_bytes(emodb)
    elif change == "longer":
        part.write_bytes(emodb + b"more")
    assert get(tmp_path / "a") == 21


def test_a_wrong_checksum_removes_the_file(emodb: bytes, server: Server, tmp_path: Path) -> None:
    server.content = emodb[:-1] + b"x"
    with pytest.raises(SertuneError, match=r"has the md5 checksum \w+, not \w+; it was removed, run the command again"):
        get(tmp_path / "a")
    assert not list((tmp_path / "a.download").glob("*.zip"))
    assert not (tmp_path / "a").exists()
    server.content = emodb + b"more"
    with pytest.raises(SertuneError, match=f"has {len(emodb) + 4} bytes, not {len(emodb)}"):
        get(tmp_path / "a")
    server.content = emodb
    assert get(tmp_path / "a") == 21


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "the server says 404 .*; look for it at: TU Berlin"), (503, "the server says 503 .*; try again later")],
)
def test_what_the_server_says(emodb: bytes, server: Server, tmp_path: Path, status: int, words: str) -> None:
    server.status = status
    with pytest.raises(SertuneError, match=words) as caught:
        get(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(DOWNLOADS, "emodb", (Download(f"http://127.0.0.1:{port}/emodb.zip"),))
    with pytest.raises(
        SertuneError, match=r"127.0.0.1 can't be reached .*; is there a network\? Or fetch http.* elsewhere"
    ):
        get(tmp_path / "a")


def test_only_https(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOWNLOADS, "emodb", (Download("http://example.org/emodb.zip"),))
    with pytest.raises(SertuneError, match=r"http://example.org/emodb.zip: is not https"):
        get(tmp_path / "a")
    monkeypatch.setitem(DOWNLOADS, "emodb", (Download(f"{server.url}/emodb.zip"),))
    server.status, server.location = 302, "http://example.org/emodb.zip"
    with pytest.raises(SertuneError, match="is not https"):
        get(tmp_path / "a")


def test_a_full_disk(emodb: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Path.open

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self: Path, *args: Any, **options: Any) -> Any:
        return Full(self, "w") if self.name.endswith(".part") else begin(self, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SertuneError, match=r"emodb.zip.part: can't be written \(No space left on device\); make room"):
        get(tmp_path / "a")


def test_files_put_there_by_hand_are_taken(emodb: bytes, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.download").mkdir()
    (tmp_path / "a.download" / "emodb.zip").write_bytes(emodb)
    assert get(tmp_path / "a") == 21
    assert server.asked == []


# Archives


def offer(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch, name: str = "x.zip") -> None:
    server.content = content
    monkeypatch.setitem(DOWNLOADS, "emodb", (Download(f"{server.url}/{name}"),))


def tarred(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def zip_link() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        info = zipfile.ZipInfo("wav/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return data.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed({"../out.wav": b"x"}), r"holds a file outside its folder \(../out.wav\)"),
        (packed({"/abs.wav": b"x"}), "outside its folder"),
        (packed({"C:/x.wav": b"x"}), "outside its folder"),
        (packed({"..\\out.wav": b"x"}), "outside its folder"),
        (packed({"a.wav": b"x", "A.wav": b"y"}), "holds a file twice"),
        (packed({"a/": b""}), "holds no file"),
        (packed({"a.wav": bytes(10**6)}), "would unpack to 1 MB, more than 20 times its own size"),
        (zip_link(), "holds a link or a device"),
        (tarred([(tarfile.TarInfo("../x"), b"x")]), "outside its folder"),
        (tarred([(link("x", "/etc/passwd"), b"")]), "holds a link or a device"),
        (b"<html>not found</html>", "is damaged or no archive"),
        (packed({"a.wav": os.urandom(5000)})[:3000], "is damaged or no archive"),
    ],
    ids=[f"trap-{number}" for number in range(12)],
)
def test_traps_are_not_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    offer(server, content, monkeypatch)
    with pytest.raises(SertuneError, match=words) as caught:
        get(tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()
    assert not list(tmp_path.glob("*.wav"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.download"]


def test_a_damaged_file_within_is_noticed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = os.urandom(5000)
    content = bytearray(packed({"wav/03a01Fa.wav": clip, "wav/b": b"x"}))
    content[2000] ^= 255
    offer(server, bytes(content), monkeypatch)
    with pytest.raises(SertuneError, match="is damaged"):
        get(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_tar_and_flat_archives(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus("emodb").example(tmp_path / "source")
    clips = [
        (tarfile.TarInfo(f"./{f.name}"), f.read_bytes()) for f in sorted((tmp_path / "source" / "wav").glob("*.wav"))
    ]
    offer(server, tarred(clips), monkeypatch, "x.tar.gz")
    assert get(tmp_path / "a") == 21
    assert (tmp_path / "a" / "03a01Wa.wav").is_file()


# What is said of corpora


def test_those_that_cant_be_fetched_say_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = [name for name in names() if name not in DOWNLOADS]
    assert set(DOWNLOADS) < set(names())
    for name in others:
        assert main(["fetch", name, "--to", str(tmp_path / "a"), "--yes"]) == 1
        said = capsys.readouterr().err
        assert name in said
        assert said.count("\n") == 1
    assert main(["fetch", "cremad"]) == 1
    assert "git-lfs" in capsys.readouterr().err
    assert main(["fetch", "iemocap"]) == 1
    assert "--data iemocap:FOLDER, where FOLDER has" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_known_downloads_are_well_formed() -> None:
    for downloads in DOWNLOADS.values():
        for download in downloads:
            assert download.url.startswith("https://")
            assert download.name.endswith((".zip", ".tar.gz"))
            assert len(download.digest) in (
                0,
                2 * hashlib.new(download.algorithm or "md5", usedforsecurity=False).digest_size,
            )
            assert bool(download.digest) == bool(download.algorithm)


def test_the_list_fits_a_terminal_and_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first = {line.split()[0] for line in lines if line.strip()}
    assert set(names()) <= first
    row = next(line for line in lines if line.split()[:1] == ["emodb"])
    assert row.split()[1:4] == ["de", "0.41", "10"]
    assert row.endswith("fetch")


def test_all_of_one_and_everything_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpora", "iemocap"]) == 0
    said = capsys.readouterr().out
    assert "--split iemocap-5fold, under --label-map 4class:" in said
    assert "FOLDER has" in said
    assert main(["corpora", "hf"]) == 0
    assert "--data hf:" in capsys.readouterr().out
    assert main(["corpora", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in data] == names()
    assert main(["corpora", "ravdess", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one == next(entry for entry in data if entry["name"] == "ravdess")
    assert one["downloads"][0]["digest"] == "bc696df654c87fed845eb13823edef8a"
    assert one["protocols"][0]["name"].startswith("ravdess")
    assert main(["corpora", "emobd"]) == 1
    assert "did you mean 'emodb'" in capsys.readouterr().err
