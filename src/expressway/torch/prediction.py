"""A module's outputs at new inputs, and their derivatives in the parameters."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.func import jacrev, jvp, vmap  # pyright: ignore[reportMissingImports]

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.source import Predictor

from .network import VECTORS, Network, array_of, each, full_precision
from .sums import BATCH

# Numbers in Jacobians of inputs that are taken at once.
JACOBIANS = 2**24


def predictor(network: Network, inputs: Any) -> Predictor:
    """Outputs of a module at inputs, for `expressway.predict`.

    Parameters
    ----------
    inputs
        As the module takes them, observations first; NumPy arrays will do.
    """
    device = network.like.device
    held = each(lambda a: a.to(device), _tensors(inputs))
    sizes: set[int] = set()
    each(lambda a: sizes.add(len(a)), held)
    if len(sizes) != 1:
        msg = f"inputs have {sorted(sizes)} observations, need one number of them"
        raise InputError(msg)
    count = sizes.pop()
    pieces = [_part(held, first, first + BATCH) for first in range(0, count, BATCH)]

    def outputs(theta: dict[str, Any]) -> Any:
        with torch.no_grad(), full_precision(device):
            found = [network.outputs(theta, piece) for piece in pieces]
        return torch.cat([a.reshape(len(a), -1) for a in found])

    def along(deviations: Float[Any, "b d"]) -> Float[Any, "b m c"]:
        rows = network.rows(deviations)

        def change(v: Any, piece: Any) -> Any:
            found = jvp(network.at(piece), (network.theta,), (network.split(v),))[1]
            return found.reshape(len(found), -1)

        with full_precision(device):
            found = [
                vmap(lambda v, piece=piece: change(v, piece), chunk_size=VECTORS)(rows)
                for piece in pieces
            ]
        return array_of(torch.cat(found, 1))

    def at(deviations: Float[Any, "b d"]) -> Float[Any, "b m c"]:
        theta = network.joined(network.theta)
        rows = network.rows(deviations)
        return array_of(torch.stack([outputs(network.split(theta + row)) for row in rows]))

    def gradients(first: int, last: int) -> Float[Any, "_ d"]:
        def one(theta: dict[str, Any], piece: Any) -> Any:
            return network.outputs(theta, each(lambda a: a[None], piece)).reshape(-1)

        chunk = max(1, JACOBIANS // (network.size * width))
        with full_precision(device):
            found = vmap(jacrev(one), (None, 0), chunk_size=chunk)(
                network.theta, _part(held, first, last)
            )
        blocks = [a.reshape((last - first) * width, -1) for a in found.values()]
        return array_of(torch.cat(blocks, 1))

    here = outputs(network.theta)
    width = here.shape[1]
    return Predictor(array_of(here), gradients, along, at)


def _tensors(inputs: Any) -> Any:
    if isinstance(inputs, tuple | list):
        return tuple(_tensors(a) for a in inputs)
    return inputs if isinstance(inputs, torch.Tensor) else torch.tensor(np.asarray(inputs))


def _part(inputs: Any, first: int, last: int) -> Any:
    return each(lambda a: a[first:last], inputs)
