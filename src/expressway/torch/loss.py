"""Losses summed over observations, their curvature in a module's outputs, and its root."""

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.func import grad, vmap  # pyright: ignore[reportMissingImports]

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.losses import bernoulli, categorical, poisson

from .network import each, pullback

# Outputs of an observation whose curvature is looked at as a matrix, for losses that are not known.
DENSE = 512

FISHER = (
    "the Fisher information is known of CrossEntropyLoss, BCEWithLogitsLoss, MSELoss and "
    "PoissonNLLLoss (of log means) without weights and label smoothing: use 'gauss-newton'"
)


class Loss(NamedTuple):
    """A loss, summed over a batch; of those whose root is known also one of `core.losses`."""

    total: Callable[[Any, Any], Any]
    """Of outputs and targets, observations first; a number."""
    root: Callable[[Any, Any, Any], Any] | None
    """``H^(1/2) e`` of outputs, targets and white noise e like the outputs, H the loss's Hessian
    in the outputs; None where it is not known. Where it is, H does not depend on targets, so that
    Gauss-Newton and Fisher information are the same."""

    @property
    def family(self) -> Any:
        """The loss that has the same means, if it is known: probabilities of classes."""
        root = getattr(self.root, "func", self.root)
        return {_categorical: categorical, _bernoulli: bernoulli, _poisson: poisson}.get(root)


def _categorical(outputs: Any, targets: Any, noise: Any, ignore_index: int = -100) -> Any:
    # (diag(s) - p s') times its transpose is diag(p) - p p', s the root of p.
    p = torch.softmax(outputs, 1)
    s = p.sqrt()
    counted = (
        targets.sum(1, keepdim=True)
        if targets.is_floating_point()
        else (targets != ignore_index).unsqueeze(1).to(p.dtype)
    )
    return counted.sqrt() * (s * noise - p * (s * noise).sum(1, keepdim=True))


def _bernoulli(outputs: Any, targets: Any, noise: Any) -> Any:  # noqa: ARG001
    return (torch.sigmoid(outputs) * torch.sigmoid(-outputs)).sqrt() * noise


def _squares(outputs: Any, targets: Any, noise: Any) -> Any:  # noqa: ARG001
    return math.sqrt(2.0) * noise


def _poisson(outputs: Any, targets: Any, noise: Any) -> Any:  # noqa: ARG001
    return (outputs / 2).exp() * noise


def summed(loss: Callable[..., Any], reduction: str | None, batch: tuple[Any, Any]) -> Loss:
    """A loss as the sum over observations.

    Parameters
    ----------
    loss
        PyTorch's own are used with ``reduction="sum"``, whatever theirs is.
    reduction
        What another callable does: "mean" over observations, "sum" or "none"; by default its
        attribute ``reduction``, else found from the batch.
    batch
        Outputs and targets, the first.
    """
    if reduction not in (None, "mean", "sum", "none"):
        msg = f"reduction is {reduction!r}, need 'mean', 'sum' or 'none'"
        raise InputError(msg)
    if isinstance(loss, nn.modules.loss._Loss):
        own: Any = loss
        held = copy.deepcopy(own).to(batch[0].device)
        held.reduction = "sum"
        return Loss(held, _root(loss))
    if "reduction" in inspect.signature(loss).parameters:
        return Loss(functools.partial(loss, reduction="sum"), _PLAIN.get(loss))
    said = reduction or getattr(loss, "reduction", None)
    found = _reduction(loss, *batch)
    if said is not None and found is not None and said != found:
        msg = f"reduction is {said!r}, but of a batch twice over the loss is a {found!r}: say that"
        raise InputError(msg)
    if (found or said or "mean") == "mean":
        return Loss(lambda outputs, targets: loss(outputs, targets) * len(outputs), None)
    return Loss(lambda outputs, targets: loss(outputs, targets).sum(), None)


def _root(loss: Any) -> Callable[[Any, Any, Any], Any] | None:
    """The closed root of one of PyTorch's losses."""
    match loss:
        case nn.CrossEntropyLoss(weight=None, label_smoothing=0.0):
            return functools.partial(_categorical, ignore_index=loss.ignore_index)
        case nn.BCEWithLogitsLoss(weight=None, pos_weight=None):
            return _bernoulli
        case nn.MSELoss():
            return _squares
        case nn.PoissonNLLLoss(log_input=True):
            return _poisson
    return None


_PLAIN: dict[Any, Callable[[Any, Any, Any], Any]] = {
    nn.functional.cross_entropy: _categorical,
    nn.functional.binary_cross_entropy_with_logits: _bernoulli,
    nn.functional.mse_loss: _squares,
    nn.functional.poisson_nll_loss: _poisson,
}


def _reduction(loss: Callable[..., Any], outputs: Any, targets: Any) -> str | None:
    """What a callable does over observations; None where a batch does not tell."""

    def twice(a: Any) -> Any:
        return torch.cat([a, a])

    once = loss(outputs, targets)
    if not isinstance(once, torch.Tensor):
        msg = f"the loss gives {type(once).__name__}, need a tensor"
        raise InputError(msg)
    if once.ndim > 0:
        return "none"
    first = float(once)
    second = float(loss(twice(outputs), each(twice, targets)))
    if first == 0.0 or not math.isfinite(first):
        return None
    # Once or twice as much, which rounding does not blur.
    for name, ratio in (("mean", 1.0), ("sum", 2.0)):
        if abs(second / first - ratio) < 1e-3:
            return name
    msg = (
        f"of a batch twice over the loss is {second / first:.3g} times that of the batch, need 1 "
        "(mean) or 2 (sum): give one that adds over observations"
    )
    raise InputError(msg)


def bend(loss: Loss, outputs: Any, targets: Any) -> Callable[[Any], Any]:
    """What multiplies a tensor like the outputs by the loss's Hessian in them."""
    return pullback(grad(lambda z: loss.total(z, targets)), outputs)[1]


def curvature(loss: Loss, outputs: Any, targets: Any) -> Float[Any, "n q q"]:
    """The Hessian in the q outputs of each of n observations, by q products of them all."""
    bending = bend(loss, outputs, targets)
    flat = outputs.reshape(len(outputs), -1)
    basis = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    columns = vmap(lambda e: bending(e.expand(flat.shape).reshape(outputs.shape)))(basis)
    return columns.reshape(len(basis), *flat.shape).movedim(0, 2)


def dense_root(matrices: Float[Any, "n q q"]) -> Callable[[Any], Any]:
    """What multiplies white noise like the outputs by the root of each observation's matrix."""
    values, vectors = torch.linalg.eigh(matrices)
    root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(1)
    return lambda e: (root @ e.reshape(*matrices.shape[:2], 1)).reshape(e.shape)
