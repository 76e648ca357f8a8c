"""Sums over all batches of a loader: gradient, products, noise, scores."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.func import grad, grad_and_value, jvp, vmap  # pyright: ignore[reportMissingImports]

from expressway._errors import InputError
from expressway._types import Float

from .loss import DENSE, Loss, bend, curvature, dense_root
from .network import VECTORS, Network, each, pullback

# Observations of a batch, where they are given as one tensor.
BATCH = 512


@dataclass(frozen=True)
class Batches:
    """Batches of inputs and targets that can be gone over again, on the module's device."""

    loader: Any
    device: Any

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Pairs of inputs and targets."""
        for pair in _cut(*self.loader) if _tensors(self.loader) else self.loader:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                msg = f"the loader gives {type(pair).__name__}, need pairs of inputs and targets"
                raise InputError(msg)
            yield each(self._here, pair[0]), each(self._here, pair[1])

    def _here(self, a: Any) -> Any:
        return a.to(self.device, non_blocking=True)

    @property
    def shuffled(self) -> bool:
        """Whether its batches come in another order each time, as far as a loader tells."""
        if not isinstance(self.loader, torch.utils.data.DataLoader):
            return False
        return not isinstance(self.loader.sampler, torch.utils.data.SequentialSampler)


def batches(loader: Any, device: Any) -> Batches:
    """The batches of a loader, or of a pair of tensors; `InputError` for one that ends."""
    if isinstance(loader, Iterator):
        msg = "the loader is an iterator, which ends: give a DataLoader, a list or two tensors"
        raise InputError(msg)
    if _tensors(loader):
        counts: set[int] = set()
        each(lambda a: counts.add(len(a)), loader)
        if len(counts) > 1:
            msg = f"inputs and targets have {sorted(counts)} observations, need as many"
            raise InputError(msg)
    return Batches(loader, device)


def _tensors(loader: Any) -> bool:
    """Whether it is all inputs and all targets."""
    return isinstance(loader, tuple) and len(loader) == 2 and isinstance(loader[1], torch.Tensor)


def _cut(inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
    for first in range(0, len(targets), BATCH):
        yield (
            each(lambda a, first=first: a[first : first + BATCH], inputs),
            targets[first : first + BATCH],
        )


@dataclass(frozen=True, eq=False)
class Sums:
    """Derivatives of a module's loss at its parameters, summed over observations.

    ``losses`` and ``counts`` are those of each batch when it was first gone over.
    """

    network: Network
    loss: Loss
    data: Batches
    losses: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def observations(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def hessian(self, rows: Float[Any, "b d"]) -> Float[Any, "b d"]:
        """Rows ``H v``, the loss's Hessian in the parameters: reverse over reverse mode."""
        total = torch.zeros_like(rows)
        for _, inputs, targets in self._batches():
            total += _bent(self, rows, inputs, targets)
        return total

    def gauss_newton(self, rows: Float[Any, "b d"]) -> Float[Any, "b d"]:
        """Rows ``J' H J v``, J the outputs' Jacobian and H the loss's Hessian in the outputs."""
        total = torch.zeros_like(rows)
        for _, inputs, targets in self._batches():
            total += _squared(self, rows, inputs, targets)
        return total

    def noise(self, key: Any, count: int) -> Float[Any, "b d"]:
        """Rows ``J' H^(1/2) e`` of white noise e: their covariance is the Gauss-Newton matrix."""
        total = self.network.zeros(count)
        for k, inputs, targets in self._batches():
            total += _shaken(self, (jax.random.fold_in(key, k), count), inputs, targets)
        return total

    def scores(self, weights: Float[Any, "b n"]) -> Float[Any, "b d"]:
        """Rows ``sum_n w_n g_n``; `InputError` where the loader's order is not what it was."""
        if self.data.shuffled:
            msg = "weights of observations need an order: give a DataLoader with shuffle=False"
            raise InputError(msg)
        total, last = self.network.zeros(len(weights)), 0
        for k, inputs, targets in self._batches():
            first, last = last, last + self.counts[k]
            part, loss = _weighted(self, weights[:, first:last], inputs, targets)
            # Sums in another order differ by rounding of float32, other terms by much more.
            if not math.isclose(loss, self.losses[k], rel_tol=1e-4, abs_tol=1e-6):
                msg = (
                    f"batch {k} of the loader is not what it was: weights of observations need "
                    "the same order and values each time"
                )
                raise InputError(msg)
            total += part
        return total

    def convex(self) -> bool:
        """Whether the loss is convex in each observation's outputs, at them; False if unknown."""
        if self.loss.root is not None:
            return True
        low = high = 0.0
        for _, inputs, targets in self._batches():
            outputs = self.network.outputs(self.network.theta, inputs)
            if outputs[0].numel() > DENSE:
                return False
            values = torch.linalg.eigvalsh(curvature(self.loss, outputs, targets))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        if low == high == 0.0:
            msg = (
                "the loss has no curvature in the module's outputs, so that Gauss-Newton is 0 "
                "(NLLLoss of log-probabilities has none): give logits with CrossEntropyLoss"
            )
            raise InputError(msg)
        # Eigenvalues are off by about the rounding of the largest.
        return low >= -16 * float(np.finfo(self.network.dtype).eps) * high

    def _batches(self) -> Iterator[tuple[int, Any, Any]]:
        """Batches by number; `InputError` where they are more or fewer than they were."""
        found = 0
        for inputs, targets in self.data:
            if found < len(self.counts):
                yield found, inputs, targets
            found += 1
        if found != len(self.counts):
            msg = (
                f"the loader gave {found} batches, {len(self.counts)} before: give one that can "
                "be gone over again"
            )
            raise InputError(msg)


def sums(network: Network, loss: Loss, data: Batches) -> tuple[Sums, Float[Any, "d"]]:
    """Sums over what a loader gives now, and the gradient of the loss."""
    gradient, losses, counts = network.zeros(1)[0], [], []
    for k, (inputs, targets) in enumerate(data):
        outputs, pull = pullback(network.at(inputs), network.theta)
        slope, value = _slope(loss, outputs, targets)
        if not math.isfinite(value):
            msg = f"the loss is {value} in batch {k}: train the module to a finite loss"
            raise InputError(msg)
        gradient += network.joined(pull(slope))
        losses.append(value)
        counts.append(len(outputs))
    return Sums(network, loss, data, tuple(losses), tuple(counts)), gradient


def _slope(loss: Loss, outputs: Any, targets: Any) -> tuple[Any, float]:
    """The gradient in the outputs, and the loss."""
    slope, value = grad_and_value(lambda z: loss.total(z, targets))(outputs)
    return slope, float(value)


def _bent(at: Sums, rows: Any, inputs: Any, targets: Any) -> Any:
    """A batch's part of ``H v``."""
    net, outputs = at.network, at.network.at(inputs)
    _, pull = pullback(grad(lambda theta: at.loss.total(outputs(theta), targets)), net.theta)
    return vmap(lambda v: net.joined(pull(net.split(v))), chunk_size=VECTORS)(rows)


def _squared(at: Sums, rows: Any, inputs: Any, targets: Any) -> Any:
    """A batch's part of ``J' H J v``."""
    net, outputs = at.network, at.network.at(inputs)
    found, pull = pullback(outputs, net.theta)
    bending = bend(at.loss, found, targets)

    def product(v: Any) -> Any:
        along = jvp(outputs, (net.theta,), (net.split(v),))[1]
        return net.joined(pull(bending(along)))

    return vmap(product, chunk_size=VECTORS)(rows)


def _shaken(at: Sums, draw: tuple[Any, int], inputs: Any, targets: Any) -> Any:
    """A batch's part of ``J' H^(1/2) e``."""
    net, (key, count) = at.network, draw
    outputs, pull = pullback(net.at(inputs), net.theta)
    white = net.taken(jax.random.normal(key, (count, *outputs.shape), net.dtype))
    if at.loss.root is None:
        root = dense_root(curvature(at.loss, outputs, targets))
    else:
        root = functools.partial(at.loss.root, outputs, targets)
    return vmap(lambda e: net.joined(pull(root(e))), chunk_size=VECTORS)(white)


def _weighted(at: Sums, weights: Any, inputs: Any, targets: Any) -> tuple[Any, float]:
    """A batch's part of ``sum_n w_n g_n``, and its loss."""
    net = at.network
    outputs, pull = pullback(net.at(inputs), net.theta)
    slope, loss = _slope(at.loss, outputs, targets)
    own = weights.reshape(*weights.shape, *[1] * (outputs.ndim - 1))
    # An observation's loss depends on its own outputs only: weights of losses weight their slopes.
    return vmap(lambda w: net.joined(pull(w * slope)), chunk_size=VECTORS)(own), loss
