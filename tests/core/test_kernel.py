"""Compiled functions kept on disk: found again, never trusted, never mixed up."""

import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from expressway.core import cohort, kernel
from expressway.core.kernel import Kernel
from expressway.models import nb
from expressway.models.moments import moments

CALLS = []


def doubled(a, b):
    CALLS.append(1)
    return {"sum": a["x"] * 2.0 + b}


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A folder of its own, and JAX's cache off."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    CALLS.clear()
    yield tmp_path / "expressway"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def call(x, name="doubled", b=1.0):
    jax.clear_caches()
    return np.asarray(Kernel(doubled, name)({"x": x}, b)["sum"])


def test_the_next_process_does_not_trace(kept):
    x = np.arange(5.0)
    np.testing.assert_array_equal(call(x), 2 * x + 1)
    np.testing.assert_array_equal(call(x + 1), 2 * x + 3)  # another Kernel, as in another process
    assert len(CALLS) == 1
    assert len(list(kept.iterdir())) == 1


def test_shapes_types_names_and_forms_are_told_apart(kept):
    call(np.arange(5.0))
    call(np.arange(6.0))
    call(np.arange(5, dtype=np.float32))
    call(np.arange(5.0), b=np.float64(1.0))
    call(np.arange(5.0), name="other")
    assert len(CALLS) == len(list(kept.iterdir())) == 5


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04N."])
def test_a_broken_file_is_made_anew(kept, content):
    x = np.arange(5.0)
    call(x)
    path = next(kept.iterdir())
    path.write_bytes(content)
    np.testing.assert_array_equal(call(x), 2 * x + 1)
    assert len(CALLS) == 2
    call(x)
    assert len(CALLS) == 2


def test_what_loads_but_does_not_run_is_made_anew(kept, monkeypatch):
    def broken(*_):
        def run(*_):
            msg = "NOT_FOUND: Function not found"
            raise jax.errors.JaxRuntimeError(msg)

        return run

    x = np.arange(5.0)
    call(x)
    monkeypatch.setattr(kernel.serialize_executable, "deserialize_and_load", broken)
    np.testing.assert_array_equal(call(x), 2 * x + 1)
    assert len(CALLS) == 2


def test_old_files_go(kept):
    call(np.arange(5.0))
    old = next(kept.iterdir())
    before = time.time() - kernel.KEPT - 1
    os.utime(old, (before, before))
    call(np.arange(6.0))
    assert old not in kept.iterdir()
    assert len(list(kept.iterdir())) == 1


def test_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    np.testing.assert_array_equal(call(np.arange(5.0)), 2 * np.arange(5.0) + 1)


def test_other_sources_are_other_functions(kept, monkeypatch):
    call(np.arange(5.0))
    monkeypatch.setattr(kernel, "surroundings", lambda: "another version")
    call(np.arange(5.0))
    assert len(CALLS) == 2


def test_only_functions_of_this_package_have_a_name():
    assert cohort.own_name(doubled) is None
    assert cohort.own_name(nb.information) == "information"
    assert cohort.own_name(moments, None) == "moments None"


def test_a_real_kernel_in_two_processes(kept):
    """The same numbers to the last bit, traced once."""
    program = (
        "import numpy as np, expressway as ew, hashlib; "
        "a = ew.datasets.simulate(200, 12, batches=2, outliers=3); "
        "t = ew.tl.de(a, '~ batch + condition'); "
        "print(hashlib.md5(t.drop(columns='status').to_numpy().tobytes()).hexdigest())"
    )
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        said.append(done.stdout)
        files = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert said[0] == said[1]
    assert len(files) > 5
    assert files == {path: path.stat().st_mtime_ns for path in kept.iterdir()}
