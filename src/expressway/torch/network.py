"""A module as a function of its parameters, and rows of parameters as arrays."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jax import core
from torch.func import functional_call, vjp  # pyright: ignore[reportMissingImports]

from expressway._errors import InputError
from expressway._types import Float

# Vectors that pass through a module at once. Two cores gain nothing from 16; memory is that of the
# activations of one batch, so many times.
VECTORS = 8


@dataclass(frozen=True, eq=False)
class Network:
    """A module in eval mode whose parameters are arguments.

    Parameters
    ----------
    module
        A copy: training the user's own further changes nothing here.
    theta
        Parameters that require a gradient, in the module's order. Others, and buffers, are held.
    """

    module: Any
    theta: dict[str, Any]

    @property
    def sizes(self) -> list[int]:
        """How many numbers each parameter has."""
        return [value.numel() for value in self.theta.values()]

    @property
    def size(self) -> int:
        """d: how many numbers all parameters have."""
        return sum(self.sizes)

    @property
    def like(self) -> Any:
        """A parameter: its dtype and device are those of all."""
        return next(iter(self.theta.values()))

    @property
    def dtype(self) -> Any:
        """float32 or float64, NumPy's."""
        return np.dtype(np.float64 if self.like.dtype == torch.float64 else np.float32)

    def outputs(self, theta: dict[str, Any], inputs: Any) -> Any:
        """The module's outputs; a tuple or list of inputs are several arguments."""
        arguments = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        found = functional_call(self.module, theta, arguments)
        if not isinstance(found, torch.Tensor) or found.ndim == 0:
            msg = (
                f"the module gives {type(found).__name__}, not a tensor with one entry for each "
                "observation along its first axis: wrap it in a module that gives its logits"
            )
            raise InputError(msg)
        return found

    def at(self, inputs: Any) -> Callable[[dict[str, Any]], Any]:
        """Outputs at inputs: a function of the parameters."""
        return lambda theta: self.outputs(theta, inputs)

    def split(self, row: Float[Any, "d"]) -> dict[str, Any]:
        """Parameters of a row, each in its shape."""
        parts = row.split(self.sizes)
        return {
            name: part.reshape(value.shape)
            for (name, value), part in zip(self.theta.items(), parts, strict=True)
        }

    def joined(self, theta: dict[str, Any]) -> Float[Any, "d"]:
        """The row of parameters: in the module's order, each raveled."""
        return torch.cat([theta[name].reshape(-1) for name in self.theta])

    def zeros(self, count: int) -> Float[Any, "b d"]:
        """Rows of zeros."""
        return self.like.new_zeros((count, self.size))

    def taken(self, array: Any) -> Any:
        """A JAX, NumPy or torch array as a tensor on the module's device, not copied if it may be.

        `InputError` where its dtype is not the module's.
        """
        if isinstance(array, core.Tracer):
            msg = "products of a torch module cannot be traced: call them outside of jax.jit"
            raise TypeError(msg)
        if isinstance(array, jax.Array) and (_on_cpu(array) or self.like.is_cuda):
            held = torch.from_dlpack(array.block_until_ready())
        elif isinstance(array, torch.Tensor):
            held = array.detach()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            held = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if held.dtype != self.like.dtype:
            msg = (
                f"got {held.dtype} vectors for a module with {self.like.dtype} parameters: "
                f"convert them with .astype({self.dtype.name!r})"
            )
            raise InputError(msg)
        return held.to(self.like.device)

    def rows(self, array: Any) -> Float[Any, "b d"]:
        """Rows of d numbers as a tensor."""
        held = self.taken(array)
        if held.ndim != 2 or held.shape[1] != self.size:
            msg = f"got vectors of shape {tuple(held.shape)}, need (b, {self.size}): one a row"
            raise InputError(msg)
        return held


def network(module: Any, device: Any) -> Network:
    """The function of its parameters that a module is; `InputError` where it has none we know.

    Parameters
    ----------
    device
        Where to; where it is if None.
    """
    held = copy.deepcopy(module).eval()
    if device is not None:
        held = held.to(device)
    theta = {name: p.detach() for name, p in held.named_parameters() if p.requires_grad}
    if not theta:
        msg = "the module has no parameter that requires a gradient: none to draw"
        raise InputError(msg)
    dtypes = {str(p.dtype) for p in theta.values()}
    if len(dtypes) > 1 or not dtypes <= {"torch.float32", "torch.float64"}:
        msg = (
            f"the module's parameters are {', '.join(sorted(dtypes))}, need all float32 or all "
            "float64: convert them with module.float() or module.double()"
        )
        raise InputError(msg)
    if len({p.device for p in theta.values()}) > 1:
        msg = "the module's parameters lie on several devices, need one: say device="
        raise InputError(msg)
    return Network(held, theta)


def _on_cpu(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


def array_of(tensor: Any) -> Any:
    """A NumPy array of a tensor, not copied on a CPU; a JAX array where both are on a GPU."""
    if tensor.is_cuda and jax.default_backend() == "gpu":
        return jax.dlpack.from_dlpack(tensor.contiguous())
    return tensor.detach().cpu().numpy()


def pullback(fn: Callable[[Any], Any], at: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A function's value, and what multiplies rows from the right by its Jacobian."""
    value, pull, *_ = vjp(fn, at)
    return value, lambda u: pull(u)[0]


def each(fn: Callable[[Any], Any], tree: Any) -> Any:
    """A function of every tensor of nested tuples, lists and dictionaries."""
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: each(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(each(fn, value) for value in tree)
    return tree


@contextlib.contextmanager
def full_precision(device: Any) -> Iterator[None]:
    """Products with all digits of float32 on a GPU, whose convolutions else keep 10 bits (TF32)."""
    if device.type != "cuda":
        yield
        return
    cudnn, wanted = torch.backends.cudnn, torch.get_float32_matmul_precision()
    options = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(**options, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(wanted)
