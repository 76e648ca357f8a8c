"""Gene-expression analysis by M-estimation: fit a model fast, then differentiate the fit."""

import importlib
from typing import TYPE_CHECKING, Any

from . import _types as _types  # doubles, before anything is computed
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import clustering as clustering
    from . import datasets as datasets
    from . import federated as federated
    from . import get as get
    from . import io as io
    from . import pl as pl
    from . import pp as pp
    from . import run as run
    from . import timecourse as timecourse
    from . import tl as tl
    from . import torch as torch
    from ._errors import Indefinite as Indefinite
    from ._errors import NotAnOptimum as NotAnOptimum
    from ._errors import Saddle as Saddle
    from ._errors import SingularJacobian as SingularJacobian
    from ._errors import Unfinished as Unfinished
    from .core import constraints as constraints
    from .core import folds as folds
    from .core import losses as losses
    from .core import operators as operators
    from .core.implicit import implicit as implicit
    from .core.jackknife import jackknife as jackknife
    from .core.problem import Equation as Equation
    from .core.problem import Objective as Objective
    from .core.problem import Weighted as Weighted
    from .core.staged import Staged as Staged
    from .core.taylor import taylor as taylor
    from .core.weights import linear_response as linear_response
    from .uncertainty import draws as draws
    from .uncertainty import predict as predict
    from .uncertainty import scores as scores

# Everything is imported when it is first asked for: who differentiates a fit needs no tables, who
# analyses counts no figures. Name to module, and what of it if not the module itself.
_LATER = {
    "clustering": ("clustering", None),
    "datasets": ("datasets", None),
    "federated": ("federated", None),
    "get": ("get", None),
    "io": ("io", None),
    "pl": ("pl", None),
    "pp": ("pp", None),
    "run": ("run", None),
    "timecourse": ("timecourse", None),
    "tl": ("tl", None),
    "torch": ("torch", None),
    "constraints": ("core.constraints", None),
    "folds": ("core.folds", None),
    "losses": ("core.losses", None),
    "operators": ("core.operators", None),
    "Objective": ("core.problem", "Objective"),
    "Equation": ("core.problem", "Equation"),
    "Staged": ("core.staged", "Staged"),
    "Weighted": ("core.problem", "Weighted"),
    "implicit": ("core.implicit", "implicit"),
    "taylor": ("core.taylor", "taylor"),
    "jackknife": ("core.jackknife", "jackknife"),
    "linear_response": ("core.weights", "linear_response"),
    "draws": ("uncertainty", "draws"),
    "predict": ("uncertainty", "predict"),
    "scores": ("uncertainty", "scores"),
    "Indefinite": ("_errors", "Indefinite"),
    "NotAnOptimum": ("_errors", "NotAnOptimum"),
    "Saddle": ("_errors", "Saddle"),
    "SingularJacobian": ("_errors", "SingularJacobian"),
    "Unfinished": ("_errors", "Unfinished"),
}


def __getattr__(name: str) -> Any:
    """What is imported late."""
    if name in _LATER:
        module, part = _LATER[name]
        found = importlib.import_module(f"expressway.{module}")
        return found if part is None else getattr(found, part)
    msg = f"module 'expressway' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """Everything, also what is imported late."""
    return sorted({*globals(), *_LATER})
