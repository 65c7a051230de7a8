"""A PostgreSQL server of the tests' own, in a folder, on a port of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s3cret"


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``; None where no server is installed."""
    folders = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(folder: Path, binaries: Path) -> Iterator[str]:
    """The address of a running server; PostgreSQL refuses root, who then starts it as another user."""
    user: dict[str, str] = {}
    if os.geteuid() == 0:
        user = {"user": "nobody"}
        shutil.chown(folder, "nobody")
        for above in folder.parents:
            if above.stat().st_uid == 0 and above != Path("/") and "pytest" in str(above):
                above.chmod(0o755)
    data, port = folder / "data", free_port()
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    made = [str(binaries / "initdb"), "-D", str(data), "-U", "tester", "--pwfile", str(folder / "password")]
    # the password is asked for, so that tests see where it might be shown
    subprocess.run([*made, "-A", "scram-sha-256", "--no-sync"], check=True, capture_output=True, **user)  # type: ignore[call-overload]
    options = ["-F", "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(binaries / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, **user
        )
    try:
        _wait(port)
        yield f"postgresql://tester:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(2)
        process.wait(30)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("PostgreSQL did not start")
