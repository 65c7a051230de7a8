"""How long a person waits: `sertune --help`, `predict` on one file and on a folder, start to end.

python benchmarks/commands.py RUN FOLDER
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from sertune.data.audio import find_audio

RUNS = 5


def seconds(command: list[str], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sertune", *command], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run, folder = sys.argv[1:]
    files = [str(file) for file in find_audio([Path(folder)])]
    cases = [
        ("--help", ["--help"], RUNS),
        ("predict, 1 file", ["predict", run, files[0], "--json"], RUNS),
        (f"predict, {len(files)} files", ["predict", run, folder, "--json"], 3),
    ]
    base = 0.0
    print("| command | median s | min to max | ratio to --help |\n|---|---|---|---|")
    for name, command, runs in cases:
        times = seconds(command, runs)
        base = base or median(times)
        print(f"| {name} | {median(times):.2f} | {min(times):.2f} to {max(times):.2f} | {median(times) / base:.1f} |")


if __name__ == "__main__":
    main()
