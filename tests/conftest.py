import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers are as many as cores: threads of linear algebra would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests compile thousands of functions and run each once or twice, so XLA and LLVM optimise none, in
# one piece each, and take their older emitters of loops: less than half the time. With these,
# standard errors at 170 samples differ by 5e-7 where 1e-10 is asked; that case is marked slow:
# `make test-all` compiles as users have it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

import typed

# Before anything imports the package: shapes and types of every call are checked in tests.
typed.install()

from expressway.core import cohort, solve  # noqa: E402

jax.config.update("jax_enable_x64", True)
# JAX's own cache serves functions of tests, too. `core/kernel.py` then keeps none.
_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expressway-tests"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")

_HERE = Path(__file__).parent


# A process may map 65,530 pieces of memory, and a compiled function takes some.
_MAPS, _ENOUGH = Path("/proc/self/maps"), 30_000


# Minutes of waiting for processes: begun first, so that the other worker has something left to do.
_LONG = ("test_deployment.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(autouse=True, scope="module")
def _few_kernels():
    """Forget compiled functions after a file when there are many."""
    yield
    if not _MAPS.exists() or _MAPS.read_bytes().count(b"\n") > _ENOUGH:
        jax.clear_caches()
        cohort.compiled.cache_clear()
        solve._moving.cache_clear()
        solve._stepping.cache_clear()


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real data sets; skips where it is absent."""
    named = os.environ.get("EXPRESSWAY_DATA")
    folder = Path(named) if named else _HERE.parents[1] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set EXPRESSWAY_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Any]:
    """Return a loader of the committed reference numbers: ``reference("small")``."""

    def load(name: str) -> Any:
        return json.loads((_HERE / "reference" / f"{name}.json").read_text(encoding="utf-8"))

    return load
