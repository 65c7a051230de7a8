"""How long audio files are, without opening each at every start."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sertune.data.audio import header_seconds


def file_seconds(files: Sequence[Path | str]) -> NDArray[np.float64]:
    """Length of each file in seconds by its header, (N,); NaN where there is no such file or no header to read."""
    return np.array([header_seconds(file) for file in files], dtype=np.float64)
