"""Errors that are a user's to mend: one clear line each, shown without a trace."""

from collections.abc import Iterable
from difflib import get_close_matches


class SertuneError(Exception):
    """A mistake that the user can mend. The message is one line: what, where, expected, what to do."""


class AudioError(SertuneError):
    """An audio file that can't be used.

    Args:
        file: the path as the user gave it.
        reason: what is wrong, e.g. ``"empty file (0 bytes)"``.
    """

    def __init__(self, file: object, reason: str) -> None:
        self.file = str(file)
        self.reason = reason
        super().__init__(f"{file}: {reason}")


class SilentError(AudioError):
    """A clip of digital silence."""


def unknown(what: str, name: object, options: Iterable[object]) -> SertuneError:
    """The error for a name that is not one of ``options``, with the nearest of them."""
    known = [str(option) for option in options]
    near = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return SertuneError(f"unknown {what} {str(name)!r}{hint} (known: {', '.join(known) or 'none'})")


def unknown_flag(flag: str, options: Iterable[str], manual: str) -> SertuneError:
    """The error for a flag that is not one of ``options``, with the nearest of them and where all are listed."""
    near = get_close_matches(flag, list(options), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return SertuneError(f"unknown flag {flag}{hint} (all flags: {manual})")
