"""A trained PyTorch module as a fit."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import torch  # pyright: ignore[reportMissingImports]

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.operator import Operator
from expressway.core.source import Predictor, Source

from .loss import FISHER, summed
from .network import array_of, full_precision, network
from .prediction import predictor
from .sums import Sums, batches, sums

KINDS = ("hessian", "gauss-newton", "fisher")


@dataclass(frozen=True, eq=False)
class TorchFit:
    """A trained module as a fit: its parameters, and the information about them.

    Attributes
    ----------
    theta
        Parameters that require a gradient, by name, in the module's order.
    gradient_norm
        Of the summed loss and the prior, in the 2-norm: 0 at an optimum. It is not asked for:
        Gauss-Newton draws need none, and those of a Hessian are refused where it is indefinite.
    loss
        Summed over observations, without the prior.
    observations
        How many the loader gave.
    prior_precision
        Of a normal prior of mean 0 of each parameter: part of the information.
    """

    theta: dict[str, Any]
    gradient_norm: float
    loss: float
    observations: int
    prior_precision: float
    _sums: Sums

    def source(self) -> Source:
        """What draws need of the fit."""
        return Source(
            operator=self.operator,
            scores=self.scores,
            observations=self.observations,
            shaped=self.shaped,
            dtype=self._sums.network.dtype,
        )

    def operator(self, kind: str, damping: float = 0.0) -> Operator:
        """The information at the fit, summed over observations; prior and damping are added.

        Vectors are rows, of parameters in the module's order, each raveled. Each product goes over
        the loader once for all rows it is given.

        Parameters
        ----------
        kind
            "hessian", "gauss-newton" or "fisher": of `InputError` for a loss whose Fisher
            information is not known.
        damping
            What is added to the diagonal besides the prior's precision.
        """
        at, net = self._sums, self._sums.network
        if kind not in KINDS:
            msg = f"kind is {kind!r}, need one of {', '.join(KINDS)}"
            raise InputError(msg)
        if kind == "fisher" and at.loss.root is None:
            raise InputError(FISHER)
        shift = self.prior_precision + _positive("damping", damping)
        product = at.hessian if kind == "hessian" else at.gauss_newton
        with full_precision(net.like.device):
            convex = kind != "hessian" and at.convex()

        def rows(vectors: Float[Any, "b d"]) -> Float[Any, "b d"]:
            held = net.rows(vectors)
            with full_precision(net.like.device):
                return array_of(product(held) + shift * held)

        def noise(key: Any, count: int) -> Float[Any, "b d"]:
            first, second = jax.random.split(key)
            white = net.taken(jax.random.normal(second, (count, net.size), net.dtype))
            with full_precision(net.like.device):
                return array_of(at.noise(first, count) + math.sqrt(shift) * white)

        return Operator(
            size=net.size,
            dtype=net.dtype,
            kind=kind,
            rows=rows,
            damping=shift,
            lower=shift if convex and shift > 0.0 else None,
            noise=noise if convex else None,
        )

    def scores(self, weights: Float[Any, "b n"]) -> Float[Any, "b d"]:
        """Rows ``sum_n w_n g_n``, g_n the gradient of observation n's loss without the prior.

        Observations are in the loader's order, which must be the same each time: `InputError` for
        one that shuffles.
        """
        at = self._sums
        held = at.network.taken(weights)
        if held.ndim != 2 or held.shape[1] != at.observations:
            msg = f"got weights of shape {tuple(held.shape)}, need (b, {at.observations})"
            raise InputError(msg)
        with full_precision(held.device):
            return array_of(at.scores(held))

    def shaped(self, deviations: Float[Any, "b d"]) -> dict[str, Any]:
        """Parameters by name, each with a leading axis: the fit's plus rows of deviations."""
        net = self._sums.network
        rows = net.rows(deviations) + net.joined(net.theta)
        return {
            name: part.reshape(len(rows), *value.shape)
            for (name, value), part in zip(net.theta.items(), rows.split(net.sizes, 1), strict=True)
        }

    def state_dict(self, draws: Any, draw: int) -> dict[str, Any]:
        """What ``module.load_state_dict`` takes: one draw, and what the module holds fixed.

        Parameters
        ----------
        draws
            Of this fit, or their ``theta``: parameters by name with a leading axis.
        draw
            Which.
        """
        theta = draws if isinstance(draws, Mapping) else draws.theta
        module = self._sums.network.module
        # Parameters that share their numbers have several names there.
        names = {id(value): name for name, value in module.named_parameters()}
        found = dict(module.state_dict(keep_vars=True))
        for key, value in found.items():
            if isinstance(value, torch.Tensor):
                name = names.get(id(value))
                found[key] = (theta[name][draw] if name in self.theta else value).detach().clone()
        return found

    def predictor(self, inputs: Any) -> Predictor:
        """The module's outputs at inputs, observations first, and their derivatives."""
        found = predictor(self._sums.network, inputs)
        return found._replace(loss=self._sums.loss.family)


def fit(
    module: Any,
    loss: Callable[..., Any],
    loader: Any,
    *,
    prior_precision: float = 0.0,
    reduction: str | None = None,
    device: Any = None,
) -> TorchFit:
    """A trained module as a fit, at its parameters as they are.

    The objective is ``sum_n loss(module(x_n), y_n) + prior_precision / 2 |theta|^2``, each loss
    a negative log-likelihood in natural units: a mean over observations is multiplied by their
    number. Everything is float32 or float64, as the parameters are. `InputError` for parameters of
    other or several types, for a loss that does not add over observations or is not finite.

    Parameters
    ----------
    module
        Of one tensor or several to one tensor, observations first. A copy of it is used, in eval
        mode: dropout is off, batch norm uses its running means. Parameters with ``requires_grad``
        are those of the fit; others, and buffers, are held. Its operations must be known to
        `torch.func` (`torch.nn.LSTM` is not).
    loss
        ``loss(outputs, targets)``. PyTorch's own are summed whatever their ``reduction``, with
        their weights as they are. MSELoss adds squares of all elements: minus the log-likelihood
        of normal errors with variance 1/2; for another sd divide it by ``2 sd**2`` in a function
        of your own. BCEWithLogitsLoss adds over all elements, too.
    loader
        Pairs of inputs and targets that can be gone over again: a DataLoader, a list of batches,
        or a tuple of two tensors. Sums do not depend on the order, so that a DataLoader may
        shuffle, but for weights of observations (sandwich draws). They are over what it gives: one
        with ``drop_last`` or a sampler that draws with replacement gives other sums each time.
        Memory is that of the activations of 8 of its batches.
    prior_precision
        A weight decay times the number of observations, where the loss was their mean.
    reduction
        For a function of your own: "mean" over observations (not elements), "sum" or "none";
        found from a batch that is given twice over where it is not said.
    device
        Where a copy of the module goes, such as "cuda"; where the module is when not given.
    """
    net = network(module, device)
    data = batches(loader, net.like.device)
    prior = _positive("prior_precision", prior_precision)
    with full_precision(net.like.device):
        for inputs, targets in data:
            with torch.no_grad():
                held = summed(loss, reduction, (net.outputs(net.theta, inputs), targets))
            break
        else:
            msg = "the loader is empty: give one with inputs and targets"
            raise InputError(msg)
        found, gradient = sums(net, held, data)
    slope = gradient + prior * net.joined(net.theta)
    return TorchFit(
        theta=net.theta,
        gradient_norm=float(torch.linalg.vector_norm(slope, dtype=torch.float64)),
        loss=math.fsum(found.losses),
        observations=found.observations,
        prior_precision=prior,
        _sums=found,
    )


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0.0):
        msg = f"{name} is {value}, need 0 or more"
        raise InputError(msg)
    return float(value)
