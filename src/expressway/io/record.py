"""What a run was and what it cost: versions, seconds, memory."""

import hashlib
import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

try:
    import resource
except ImportError:  # Windows has none
    resource = None

T = TypeVar("T")
PACKAGES = ("expressway", "anndata", "formulaic", "jax", "numpy", "pandas", "scipy")


class Clock:
    """Wall and CPU seconds of each stage, in the order of the first time each was entered.

    Parameters
    ----------
    watch
        Called with the name of each stage as it begins.
    """

    def __init__(self, watch: Callable[[str], None] = lambda _: None) -> None:
        self._watch = watch
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A context that is timed under a name; entered again, it adds up."""
        self._watch(name)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            spent = self.seconds.setdefault(name, {"wall": 0.0, "cpu": 0.0})
            spent["wall"] += time.perf_counter() - wall
            spent["cpu"] += time.process_time() - cpu

    def run(self, name: str, compute: Callable[[], T]) -> T:
        """Result of a stage, timed under its name."""
        with self.stage(name):
            return compute()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def peak_memory() -> float | None:
    """Largest resident size of this process so far, in MB (10^6 bytes); None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux getrusage starts from what the process that started this one used.
        highest = re.search(
            r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii", errors="replace")
        )
        if highest:
            return int(highest[1]) * 1024 / 1e6
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_memory() -> float | None:
    """Bytes that this process has in memory now; None where that is not known."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    now = re.search(r"VmRSS:\s*(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
    return int(now[1]) * 1024.0 if now else None


def digest(*arrays: np.ndarray) -> str:
    """BLAKE2b of the values of some arrays."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
