"""Fits of trained PyTorch modules: what draws of their parameters and predictions need.

Needs PyTorch: ``pip install 'expressway[torch]'``.
"""

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise
    message = (
        "ew.torch needs PyTorch: pip install 'expressway[torch]' (its CPU build alone: "
        "pip install torch --index-url https://download.pytorch.org/whl/cpu)"
    )
    raise ImportError(message, name="torch") from None

from .fit import TorchFit as TorchFit
from .fit import fit as fit
