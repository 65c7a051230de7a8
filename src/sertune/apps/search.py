"""The report of a search, for a browser and a terminal."""

import json
from pathlib import Path
from typing import Any

_Dict = dict[str, Any]


def write_search(folder: Path) -> _Dict:
    report: _Dict = json.loads((folder / "report.json").read_text())
    return report


def show(report: _Dict) -> str:
    return json.dumps(report["metrics"]["uar"]) + json.dumps(
        {k: report["search"][k] for k in ("best_dev", "gap", "seconds_total", "times")}
    )


def show_snapshot(found: _Dict) -> str:
    return str(found)
