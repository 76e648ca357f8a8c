"""The analysis: from samples × genes to `Clusters`."""

import logging
from collections.abc import Callable, Mapping, Sequence

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.core.threads import one_each
from expressway.models.dirichlet import Prior
from expressway.models.gene_clusters import cluster
from expressway.models.gene_mixtures import Starts, model

from . import steps
from .result import Clusters, blocks, joined
from .steps import DEFAULTS, Data, Design, Settings

logger = logging.getLogger(__name__)


@one_each()
def analyse(
    adata: anndata.AnnData,
    along: str | Sequence[str],
    *,
    basis: str = "rbf:3",
    centers: Sequence[float | int] | None = None,
    length: float | int | None = None,
    weights: str | Sequence[str] | None = None,
    design: str | None = None,
    covariates: str | None = None,
    size_factors: str | Sequence[float] | np.ndarray = "auto",
    time_sd: str | Sequence[str] | None = None,
    orthonormal: bool = True,
    prior: Prior | Mapping[str, Prior] | None = None,
    layer: str | None = None,
    settings: Settings = DEFAULTS,
    watch: Callable[[str], None] = lambda _: None,
) -> Clusters:
    """Mixtures over the coefficients of every gene's curve; parameters as for `tl.cluster`."""
    clock = io.Clock(watch)
    _check(settings)
    obs = pd.DataFrame(adata.obs)
    with clock.stage("design"):
        times = [along] if isinstance(along, str) else list(along)
        of = steps.lineages(obs, times, [weights] if isinstance(weights, str) else weights)
        if design is None:
            shape = {"centers": centers, "length": length}
            made = steps.along_design(of, basis, settings, shape, orthonormal)
        else:
            made = steps.formula_design(obs, design, of, settings, orthonormal)
        others = steps.covariates(obs, covariates)
        uncertain = _uncertain(obs, made, time_sd, others[0].shape[1])
        _refuse_dependent(made, others)
        doubts = _doubts(made)
        k = made.frame.z.shape[1]
        names = (*made.names, *others[1], steps.DISPERSION)
        given = steps.priors(Prior() if prior is None else prior, names, k)
    with clock.stage("counts"):
        y = steps.dense(adata, layer)
        offset, sized, more = steps.log_sizes(y, obs, size_factors)
        doubts += more
    with clock.stage("gene-wise fits"):
        status, found, table, used = steps.genewise(y, made, others, offset, settings)
        sites = steps.likelihoods(found, table, settings, uncertain)
    data = Data(
        tuple(map(str, adata.var_names)),
        tuple(map(str, adata.obs_names)),
        tuple(times),
        sized,
        tuple(status.tolist()),
        used,
        table,
        made.frame,
        made.curves,
        names,
        made.raw_names,
        k,
        found.beta,
        found.log_alpha,
        found.log_likelihood,
        sites,
    )
    plain = settings.precision == "model" and not uncertain
    with clock.stage("clusters"):
        each = cluster(
            table if plain else None,
            sites,
            model(sites, blocks(data), given),
            Starts(settings.starts, settings.seed),
            settings.rounds,
        )
    with clock.stage("modules"):
        together = joined(data, each, given, settings)
    result = Clusters(data, settings, given, each, together, dict(clock.seconds), tuple(doubts))
    for doubt in (*doubts, *result.full()):
        logger.warning("%s", doubt)
    return result


def _check(settings: Settings) -> None:
    """Refuse settings that make no sense."""
    least = {"starts": 1, "seed": 0, "rounds": 0, "min_cells": 1, "points": 2}
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            msg = f"{name} is {getattr(settings, name)}; it must be at least {smallest}"
            raise io.InputError(msg)
    if not 0 < settings.level < 1 or not settings.zero > 0:
        msg = f"level {settings.level}, zero {settings.zero}: needed are 0 < level < 1 and zero > 0"
        raise io.InputError(msg)


def _uncertain(
    obs: pd.DataFrame, made: Design, time_sd: str | Sequence[str] | None, others: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Slopes of the design and standard deviations of times, for each lineage."""
    if time_sd is None:
        return []
    columns = [time_sd] if isinstance(time_sd, str) else list(time_sd)
    if len(columns) != len(made.slopes):
        msg = (
            f"{len(columns)} columns of standard deviations for {len(made.slopes)} pseudotimes; "
            "give one each (a design formula of your own cannot have them)"
        )
        raise io.InputError(msg)
    found = []
    for name, slope in zip(columns, made.slopes, strict=True):
        sd = io.numeric(obs, name, called="standard-deviation column")
        if np.any(sd < 0):
            msg = f"standard deviation of pseudotime '{name}' is negative for some sample"
            raise io.InputError(msg)
        found.append((np.column_stack([slope, np.zeros((len(slope), others))]), sd))
    return found


def _refuse_dependent(made: Design, others: tuple[np.ndarray, tuple[str, ...]]) -> None:
    """Covariates must not be in the span of the curves."""
    x = np.column_stack([made.frame.z, others[0]])
    if np.linalg.matrix_rank(x) < x.shape[1]:
        msg = (
            f"covariates {', '.join(others[1])} lie in the span of the curves and each other; "
            "leave some out"
        )
        raise io.InputError(msg)
    if x.shape[1] >= len(x):
        msg = f"{len(x)} samples for {x.shape[1]} coefficients: take fewer basis functions"
        raise io.InputError(msg)


def _doubts(made: Design) -> list[str]:
    """What is to be said of the basis."""
    if made.frame.orthonormal or made.frame.condition < steps.ILL:
        return []
    return [
        f"the basis has condition number {made.frame.condition:.0f}: its coefficients are hardly "
        "identified one by one, and neither are clusters of them; leave it orthonormal"
    ]
