"""Compiled functions that are kept on disk ready to run.

JAX, where it is told to (JAX_COMPILATION_CACHE_DIR), keeps what XLA made of a function, but to
find it there traces the function anew in every process: most of the time of a first call. A
`Kernel` is found by the function's name, the shapes it is called with, and a digest of this
package's sources and of all that XLA's work depends on. The two do not mix: what JAX found in its
cache cannot be kept again (jaxlib 0.10: its parts are lost).
"""

import functools
import hashlib
import os
import pickle
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jaxlib.version import __version__ as jaxlib_version

# Seconds after which a file goes: other versions and shapes leave theirs behind.
KEPT = 90 * 24 * 3600.0
_PACKAGE = Path(__file__).resolve().parents[1]


class Kernel:
    """A function of arrays, compiled once for each set of shapes.

    Parameters
    ----------
    fn
        Pure function of pytrees of arrays.
    name
        What tells it from other functions, in this process and the next; None keeps it in this
        process only.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None) -> None:
        self._jitted, self._name = jax.jit(fn), name
        self._ready: dict[Hashable, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        leaves, tree = jax.tree.flatten(args)
        key = (tree, *map(_kind, leaves))
        if key not in self._ready:
            with self._lock:
                if key not in self._ready:
                    self._ready[key] = self._found(key, args)
        return self._ready[key](*args)

    def _found(self, key: Hashable, args: tuple[Any, ...]) -> Callable[..., Any]:
        """The function for arguments of these shapes, from disk or compiled."""
        if self._name is None or _configured("jax_compilation_cache_dir") is not None:
            return self._jitted
        name = hashlib.blake2b(repr((self._name, key, surroundings())).encode(), digest_size=16)
        path = folder() / name.hexdigest()
        try:
            loaded = serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()))
            jax.block_until_ready(loaded(*args))
        except Exception:
            # Not there, or of no use: for whatever reason, it is made anew.
            loaded = None
        if loaded is not None:
            return loaded
        compiled = self._jitted.lower(*args).compile()
        _keep(path, compiled)
        return compiled


def folder() -> Path:
    """Where compiled functions are kept: in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expressway"


def _configured(name: str) -> Any:
    return getattr(jax.config, name)


def _kind(leaf: Any) -> tuple[Any, ...]:
    """Its shape and type; a Python number is weak, and gives way to that of an array."""
    try:
        return leaf.shape, leaf.dtype
    except AttributeError:
        return (type(leaf),)


def _keep(path: Path, compiled: Any) -> None:
    """Write a compiled function, whole or not at all; a full or read-only disk is no mistake."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            pickle.dump(serialize_executable.serialize(compiled), file)
        Path(file.name).replace(path)
        for old in path.parent.iterdir():
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink()
    except Exception:
        # It is in memory all the same.
        return


@functools.cache
def surroundings() -> str:
    """Digest of everything but shapes that compiled code depends on."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(path.read_bytes())
    flags = Path("/proc/cpuinfo")
    lines = flags.read_text(errors="replace").splitlines() if flags.is_file() else []
    processor = sorted({line for line in lines if line.startswith(("flags", "model name"))})
    versions = (jax.__version__, jaxlib_version, platform.python_version())
    config = (_configured("jax_enable_x64"), os.environ.get("XLA_FLAGS"))
    devices = [str(device) for device in jax.devices()]
    found.update(repr((processor, versions, config, devices, platform.machine())).encode())
    return found.hexdigest()
