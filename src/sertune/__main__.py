"""``python -m sertune``."""

from sertune.cli import entry

entry()
