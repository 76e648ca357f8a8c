"""Gene-expression analysis by M-estimation: fit a model fast, then differentiate the fit."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from . import datasets as datasets
from . import federated as federated
from . import get as get
from . import io as io
from . import tl as tl
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import pl as pl


def __getattr__(name: str) -> ModuleType:
    """Figures are imported when they are first asked for: matplotlib takes half a second."""
    if name == "pl":
        return importlib.import_module("expressway.pl")
    msg = f"module 'expressway' has no attribute {name!r}"
    raise AttributeError(msg)
