"""Layers import only downwards (docs/design.md); optional libraries are imported in one file each."""

import ast
from pathlib import Path

import sertune

SOURCE = Path(sertune.__file__).parent
ALLOWED = {
    "cli": {"cli", "train", "apps", "model", "corpora", "metrics", "data", "base"},
    "train": {"train", "model", "corpora", "metrics", "data", "base"},
    "apps": {"apps", "model", "corpora", "metrics", "data", "base"},
    "model": {"model", "data", "base"},
    "corpora": {"corpora", "data", "base"},
    "metrics": {"metrics", "base"},
    "data": {"data", "base"},
    "base": {"base"},
}
BASE = {"config", "errors", "files", "progress", "__init__", ""}
TOP = {"cli", "__main__"}


def layer(parts: tuple[str, ...]) -> str:
    """The layer of a module below sertune, given as ('model', 'head')."""
    first = parts[0] if parts else ""
    if first in TOP:
        return "cli"
    return "base" if first in BASE else first


def imports(file: Path) -> list[tuple[str, ...]]:
    """Modules of sertune that a file imports, wherever in it, as parts below the package."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
        found += [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "sertune"]
    return found


def test_imports_point_down() -> None:
    wrong = []
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the package's front door opens onto apps and train, lazily
        own = layer(parts)
        wrong += [f"{'/'.join(parts)} -> {'.'.join(t)}" for t in imports(file) if layer(t) not in ALLOWED[own]]
    assert wrong == []


def test_metrics_need_numpy_alone() -> None:
    for file in (SOURCE / "metrics").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found = {name.split(".")[0] for name in names}
            heavy = {"torch", "pandas", "scipy", "sklearn"} & found
            assert not heavy, f"{file.name} imports {heavy}"
            assert "ot" not in found or file.name == "transport.py", f"{file.name} imports ot"


def test_help_needs_no_heavy_import() -> None:
    """`sertune --help` answers in half a second because nothing heavy is imported for it."""
    import subprocess
    import sys

    code = (
        "import sys; from sertune.cli import main; main(['--help']);"
        "heavy = {'torch', 'pandas', 'transformers', 'numpy', 'jsonargparse'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
