"""The clustering model by sampling: what to check against.

Counts ``y_gn ~ NB(mu_gn, alpha_g)``, ``log mu_gn = offset_n + z_n' b_g`` (natural log), variance
``mu + alpha mu²``. Each coordinate k of ``eta_g = (b_g, log alpha_g)``, P = K + 1 of them, is a
draw from a mixture of its own, by truncated stick-breaking (`dirichlet`)::

    eta_gk ~ Σ_j pi_kj N(mu_kj, 1 / s_kj),   pi_kj = v_kj Π_{i<j} (1 - v_ki)
    v_kj ~ Beta(1, c_k),  c_k ~ Gamma,  mu_kj ~ N(m0, sd²),  s_kj ~ Gamma

To which component a gene belongs is summed out, so that all that is sampled is continuous. It is
not meant for more than some hundred genes. NumPyro is slow to import, and so is this module: import
it where it is used.

Axes beside the usual: ``P`` coordinates, ``J`` components (sticks), ``s`` draws.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_value
from numpyro.infer.util import initialize_model
from scipy.special import gammaln

from expressway._errors import InputError
from expressway._types import Array, Float
from expressway.core.special import gamma_ratio, log1p

from .dirichlet import Prior
from .dirichlet_draws import Draws

# exp of more than 709.8 is infinite.
LARGEST = 700.0
# Free numbers with less curvature are stepped as if their standard deviation were 1.
LEAST = 1e-2


class Point(NamedTuple):
    """Values of all that is sampled."""

    eta: Float[np.ndarray, "g P"]
    mu: Float[np.ndarray, "P J"]
    """Means of components."""
    s: Float[np.ndarray, "P J"]
    """Their precisions (1 / variance)."""
    v: Float[np.ndarray, "P J1"]
    """Share of what is left of the stick; the last of the J components takes the rest."""
    concentration: Float[np.ndarray, "P"]


class Settings(NamedTuple):
    """How long, and how, NUTS runs."""

    warmup: int = 200
    draws: int = 200
    """A chain, after the warm-up."""
    chains: int = 1
    """One after the other, all from the same start."""
    accept: float = 0.8
    """Mean acceptance that step sizes are adapted to."""
    seed: int = 0


class Sampled(NamedTuple):
    """What NUTS drew, and how well it went."""

    draws: Draws
    label: Float[np.ndarray, "g P J"]
    """`Draws.label`."""
    r_hat: Float[np.ndarray, "g P"]
    """Of eta: split chains (Gelman et al. 2013, Bayesian Data Analysis, 11.4)."""
    ess: Float[np.ndarray, "g P"]
    """Of eta: effective number of draws."""
    divergences: int
    """After the warm-up."""
    steps: int
    """Evaluations of the gradient after the warm-up."""
    seconds: float
    """All, with compilation and warm-up."""


def model(
    y: Float[np.ndarray, "g n"],
    z: Float[np.ndarray, "n K"],
    offset: Float[np.ndarray, "n"],
    priors: Sequence[Prior],
    sticks: int,
) -> None:
    """Declare the model to NumPyro; see the module.

    Parameters
    ----------
    y
        Counts.
    z
        Design, best orthonormal (columns of square sum n): gene-wise coefficients are then nearly
        independent a posteriori, and one step size a coordinate serves.
    offset
        Log size factors (natural log).
    priors
        Of each coefficient, and of log alpha; ``mean`` and ``mean_sd`` are numbers.
    sticks
        Components at most, in place of each prior's ``truncation``.
    """
    p = _columns(priors, z.shape[1] + 1)
    shape = (len(priors), sticks)
    concentration = _site("concentration", dist.Gamma(p.concentration_shape, p.concentration_rate))
    rest = jnp.broadcast_to(concentration[:, None], (len(priors), sticks - 1))
    v = _site("v", dist.Beta(jnp.ones_like(rest), rest))
    mean, mean_sd, a, b = (np.broadcast_to(x[:, None], shape) for x in p[2:])
    mu = _site("mu", dist.Normal(mean, mean_sd))
    s = _site("s", dist.Gamma(a, b))
    # Centred: counts say more about most genes than their component does.
    component = dist.Normal(mu[None], 1.0 / jnp.sqrt(s)[None])
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=log_weights(v)[None]), component)
    eta = _site("eta", mixture.expand((len(y), len(priors))))
    numpyro.factor("counts", jnp.sum(log_likelihood(eta, y, z, offset)))


def _site(name: str, distribution: dist.Distribution) -> Array:
    """What is sampled, all of it one event."""
    event = distribution.to_event(len(distribution.batch_shape))
    return jnp.asarray(numpyro.sample(name, event))


@jax.jit
def log_weights(v: Float[Array, "*axes J1"]) -> Float[Array, "*axes J"]:
    """Logarithms of the weights of J components, ``log v_j + Σ_{i<j} log(1 - v_i)``, v_J = 1."""
    none = jnp.zeros((*v.shape[:-1], 1))
    left = jnp.cumsum(jnp.log1p(-v), axis=-1)
    return jnp.concatenate([jnp.log(v), none], -1) + jnp.concatenate([none, left], -1)


def log_likelihood(
    eta: Float[Array, "g P"],
    y: Float[np.ndarray, "g n"],
    z: Float[np.ndarray, "n K"],
    offset: Float[np.ndarray, "n"],
) -> Float[Array, "g"]:
    """Log-likelihood of each gene, nothing left out.

    With r = 1 / alpha, and means not raised::

        Σ_n lgamma(y + r) - lgamma(r) - lgamma(y + 1) - y log r + y log mu - (y + r) log(1 + mu / r)
    """
    return _of_eta(eta, y.T, z, offset[:, None]) - np.sum(gammaln(y + 1.0), axis=1)


# One program: NumPyro evaluates the model a few times operation by operation.
@jax.jit
def _of_eta(
    eta: Float[Array, "g P"],
    y: Float[Array, "n g"],
    z: Float[Array, "n K"],
    offset: Float[Array, "n 1"],
) -> Float[Array, "g"]:
    log_alpha = eta[:, -1]
    r = jnp.exp(-log_alpha)
    log_mu = offset + z @ eta[:, :-1].T
    odds = log_mu + log_alpha[None]
    # A trajectory may begin with a leap: the logarithm of 1 + exp(odds) stays finite.
    above = jnp.maximum(odds - LARGEST, 0.0)
    total = log1p(jnp.exp(odds - above)) + above
    ratio = gamma_ratio(y, r, jnp.ones_like(offset)).log
    return ratio + jnp.sum(y * log_mu - (y + r[None]) * total, axis=0)


def sample(
    y: Float[np.ndarray, "g n"],
    z: Float[np.ndarray, "n K"],
    offset: Float[np.ndarray, "n"],
    priors: Sequence[Prior],
    *,
    start: Point,
    settings: Settings | None = None,
) -> Sampled:
    """Draws from the posterior by NUTS (Hoffman & Gelman 2014), with a diagonal mass matrix.

    Components exchange labels only by chance, and a mixture has many modes: a chain stays near its
    start, so that it tells how good the variational optimum is that it starts from, not whether
    there is a better one.

    Parameters
    ----------
    y, z, offset, priors
        See `model`.
    start
        Where chains start; the number of sticks is its number of components.
    settings
        `Settings` if None.

    Raises
    ------
    InputError
        Shapes of the start are not the problem's, or a value is outside its range.
    """
    settings = Settings() if settings is None else settings
    _check(start, (len(y), z.shape[1] + 1))
    begin = time.perf_counter()
    arguments = (y, z, offset, priors, start.mu.shape[1])
    strategy = init_to_value(values=start._asdict())
    kernel = NUTS(
        model,
        inverse_mass_matrix=_variances(arguments, strategy),
        target_accept_prob=settings.accept,
        init_strategy=strategy,
    )
    chains = MCMC(
        kernel,
        num_warmup=settings.warmup,
        num_samples=settings.draws,
        num_chains=settings.chains,
        chain_method="sequential",
        progress_bar=False,
    )
    chains.run(jax.random.key(settings.seed), *arguments, extra_fields=("diverging", "num_steps"))
    found = chains.get_samples(group_by_chain=True)
    extra = {name: np.asarray(x) for name, x in chains.get_extra_fields().items()}
    eta = np.asarray(found["eta"])
    seconds = time.perf_counter() - begin
    draws = as_draws({name: np.concatenate(np.asarray(x)) for name, x in found.items()})
    return Sampled(
        draws=draws,
        label=draws.label(),
        r_hat=np.asarray(split_gelman_rubin(eta)),
        ess=np.asarray(effective_sample_size(eta)),
        divergences=int(np.sum(extra["diverging"])),
        steps=int(np.sum(extra["num_steps"])),
        seconds=seconds,
    )


def _variances(arguments: tuple[Any, ...], strategy: Any) -> Float[np.ndarray, "m"]:
    """Inverse curvature of the log density at the start, of each free number by itself.

    What the adaptation of the mass matrix starts from: if from 1, the first trajectories take a
    thousand steps each. Entries of a site that differ in its first axis (genes; coordinates) have
    no mixed derivative, so that one product with the Hessian gives the diagonal for all of them.
    """
    info: Any = initialize_model(
        jax.random.key(0), model, init_strategy=strategy, model_args=arguments, validate_grad=False
    )
    at: dict[str, Array] = info.param_info.z
    slope = jax.grad(info.potential_fn)

    @jax.jit
    def product(probe: dict[str, Array]) -> dict[str, Array]:
        return jax.jvp(slope, (at,), (probe,))[1]

    diagonal = {name: np.ones(x.shape) for name, x in at.items()}
    for name, x in at.items():
        columns = x.shape[-1] if x.ndim > 1 else 1
        for column in range(columns):
            which = ... if x.ndim == 1 else (slice(None), column)
            probe = {other: np.zeros(y.shape) for other, y in at.items()}
            probe[name][which] = 1.0
            diagonal[name][which] = np.asarray(product(probe)[name])[which]
    flat = ravel_pytree(diagonal)[0]
    return 1.0 / np.where(flat > LEAST, flat, 1.0)


def as_draws(found: dict[str, np.ndarray]) -> Draws:
    """Draws as they are shown: spreads and weights for precisions and sticks."""
    weight = np.exp(np.asarray(log_weights(found["v"])))
    return Draws(found["eta"], found["mu"], 1.0 / np.sqrt(found["s"]), weight)


class _Columns(NamedTuple):
    """Numbers of the priors, an array each."""

    concentration_shape: Float[np.ndarray, "P"]
    concentration_rate: Float[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    mean_sd: Float[np.ndarray, "P"]
    shape: Float[np.ndarray, "P"]
    rate: Float[np.ndarray, "P"]


def _columns(priors: Sequence[Prior], coordinates: int) -> _Columns:
    if len(priors) != coordinates:
        msg = f"{len(priors)} priors for {coordinates} coordinates: give one of each coefficient "
        raise InputError(msg + "and one of log alpha")
    rows = [prior[1:] for prior in priors]
    if any(x is None for row in rows for x in row):
        msg = "a prior has mean, mean_sd or rate None, which a sampler cannot fill in: give numbers"
        raise InputError(msg)
    return _Columns(*np.array(rows, float).T)


def _check(start: Point, shape: tuple[int, int]) -> None:
    if start.eta.shape != shape or len(start.mu) != shape[1]:
        msg = f"the start has eta of shape {start.eta.shape} and means of {len(start.mu)} "
        raise InputError(msg + f"coordinates, but the problem is {shape}: give that many")
    inside = {
        "s": np.all(start.s > 0),
        "v": np.all((start.v > 0) & (start.v < 1)),
        "concentration": np.all(start.concentration > 0),
    }
    bad = [name for name, is_in in inside.items() if not is_in]
    if bad or not all(np.all(np.isfinite(x)) for x in start):
        msg = f"the start has values out of range in {', '.join(bad) or 'an array'}: precisions "
        raise InputError(msg + "and concentrations are above 0, sticks between 0 and 1, all finite")
