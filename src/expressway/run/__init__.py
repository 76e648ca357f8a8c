"""Where rows live, beyond one table in this process's memory."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint as Checkpoint
from .federation import Federation as Federation
from .federation import Ledger as Ledger
from .protocol import ProtocolError as ProtocolError
from .protocol import Site as Site
from .sites import Sites as Sites

if TYPE_CHECKING:
    from . import dask as dask


def __getattr__(name: str) -> ModuleType:
    """Dask is an extra: it is imported when it is first asked for."""
    if name != "dask":
        msg = f"module 'expressway.run' has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        return importlib.import_module("expressway.run.dask")
    except ModuleNotFoundError as error:
        msg = f"there is no {error.name}: pip install 'expressway[dask]'"
        raise ImportError(msg) from error
