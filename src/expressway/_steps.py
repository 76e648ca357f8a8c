"""Steps that an analysis of one table and one of several sites share."""

import logging
from typing import Any, get_args

import anndata
import jax
import numpy as np
import pandas as pd

from expressway import io
from expressway._types import Array, Float
from expressway.core.cohort import Cohort, Pooled, samples
from expressway.core.order import Groups
from expressway.core.sparse import Sparse, library_size
from expressway.io.check import Counts
from expressway.io.contrast import Contrast, ContrastSpec
from expressway.io.design import Design
from expressway.models import deseq, gene_ranks, leave_out, results, shrinkage, survival
from expressway.models import influence as influences
from expressway.models.gene_covariance import Normal
from expressway.models.size_factors import Method

logger = logging.getLogger(__name__)


def test(
    fit: deseq.DESeqFit, wanted: Contrast, genes: pd.Index
) -> tuple[pd.DataFrame, results.Results]:
    """Table of a contrast, and what else was found of it."""
    takers = results.Takers(wanted.constant, wanted.members)
    found = results.results(fit, wanted.vector, takers)
    return io.results_table(fit, found, genes), found


def tests(fit: deseq.DESeqFit, wanted: io.Differences, genes: pd.Index) -> anndata.AnnData:
    """Many contrasts of one fit, contrasts × genes."""
    found = results.many(fit, results.Differences(wanted.vectors, wanted.marks))
    return io.contrasts_table(fit, found, wanted, genes)


def influence(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    cohort: Pooled,
    kind: str,
    *,
    exact: bool,
) -> io.Influences:
    """Change of a contrast without each sample, and what becomes of the calls.

    Raises
    ------
    InputError
        The kind is none, or `models.influence` refuses the rows.
    """
    if kind not in get_args(survival.Kind):
        msg = f"kind must be one of {', '.join(get_args(survival.Kind))}, but is {kind}"
        raise io.InputError(msg)
    fn = {"conditional": influences.conditional, "pipeline": influences.pipeline}[kind]
    again = {"conditional": leave_out.conditional, "pipeline": leave_out.pipeline}[kind]
    contrast = wanted.vector[None]
    found = results.results(fit, wanted.vector, results.Takers(wanted.constant, wanted.members))
    moves = fn(fit, cohort, contrast)
    test, called = found.wald, found.adjusted.p_adj < fit.settings.alpha
    limit = survival.cut(test.p_value, found.adjusted.p_adj, fit.settings.alpha)
    whole = again(fit, cohort, contrast) if exact else None

    def refit(pairs: np.ndarray) -> leave_out.LeftOut:
        return again(fit, cohort, contrast, pairs) if whole is None else whole

    step = np.asarray(moves.step.stat)[0]
    calls = survival.survival(test.stat, called, limit, step, refit, thorough=exact)
    changes = moves.step if whole is None else whole
    nothing = found.status == "no_counts"  # fold change 0, with or without any sample
    parts = (changes.estimate[0] / np.log(2), changes.se[0] / np.log(2), changes.stat[0])
    layers = [np.where(nothing, 0.0, part) for part in parts]
    return io.Influences(*layers, calls=calls, held=moves.held, frozen=moves.frozen)


def intervals(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    of: Normal,
    choices: gene_ranks.Choices,
    seed: int | Array,
    genes: pd.Index,
) -> pd.DataFrame:
    """Intervals of a contrast and of the genes' ranks, among those with an adjusted p-value."""
    found = results.results(fit, wanted.vector, results.Takers(wanted.constant, wanted.members))
    nothing = found.status == "no_counts"  # fold change 0 by rule; nothing is known of it
    estimate, se = (np.where(nothing, np.nan, part) for part in gene_ranks.along(of, wanted.vector))
    ends = gene_ranks.intervals(estimate, se, choices.level)
    taking = np.isfinite(found.adjusted.p_adj) & (found.status != "not_converged")
    random = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    some = gene_ranks.Estimates(np.where(taking, estimate, np.nan), se)
    return io.intervals_table(found, of, ends, gene_ranks.ranks(some, random, choices), genes)


def choices_of(
    coded: Design, kind: str, interval: float | int, threshold: float | int, *, exact: bool
) -> shrinkage.Choices:
    """What is wanted of a shrinkage of this design's coefficients.

    Raises
    ------
    InputError
        A choice cannot be used.
    """
    free = tuple(i for i, name in enumerate(coded.names) if name == "Intercept")
    choices = shrinkage.Choices(kind, float(interval), threshold, exact, free)  # pyright: ignore[reportArgumentType]
    shrinkage.check(choices)
    return choices


def shrunken(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    cohort: Cohort,
    choices: shrinkage.Choices,
    genes: pd.Index,
    cells: Groups | None = None,
) -> tuple[pd.DataFrame, shrinkage.Shrunken]:
    """Table of a contrast's shrunken fold changes, and what else was found of them."""
    found = shrinkage.shrink(fit, cohort, wanted.vector, choices, cells)
    takers = results.Takers(wanted.constant, wanted.members)
    test = results.results(fit, wanted.vector, takers)
    return io.shrunken_table(fit, test, found, wanted.vector, genes), found


def labels(adata: anndata.AnnData, column: str | None) -> np.ndarray | None:
    """A column of ``obs`` as texts.

    Raises
    ------
    InputError
        There is no such column, or a sample has no value in it.
    """
    if column is None:
        return None
    if column not in adata.obs:
        msg = f"there is no column {column!r}; the columns are {', '.join(map(str, adata.obs))}"
        raise io.InputError(msg)
    values = pd.Series(adata.obs[column])
    if values.isna().any():
        msg = f"sample {adata.obs_names[int(values.isna().argmax())]} has no value in {column!r}"
        raise io.InputError(msg)
    return values.astype(str).to_numpy(dtype=str)


def check_settings(settings: deseq.Settings) -> None:
    """Refuse numbers out of range.

    Raises
    ------
    InputError
        One is.
    """
    if settings.size_factors not in get_args(Method):
        needed = f"size_factors must be one of {', '.join(get_args(Method))}"
        got = settings.size_factors
    elif not 0 < settings.alpha < 1:
        needed, got = "alpha must lie between 0 and 1", settings.alpha
    elif settings.prior_variance is not None and not 0 < settings.prior_variance < np.inf:
        needed, got = "the prior variance must be above 0", settings.prior_variance
    elif settings.min_replicates < 3:
        needed, got = "min_replicates must be 3 or more", settings.min_replicates
    else:
        return
    msg = f"{needed}, but is {got}"
    raise io.InputError(msg)


def layer_of(adata: anndata.AnnData, layer: str | None) -> Any:
    """X, or a layer.

    Raises
    ------
    InputError
        There is no such layer.
    """
    if layer is not None and layer not in adata.layers:
        msg = f"there is no layer {layer!r}; the layers are {', '.join(adata.layers) or 'none'}"
        raise io.InputError(msg)
    return adata.X if layer is None else adata.layers[layer]


def expression(adata: anndata.AnnData, layer: str | None) -> Float[np.ndarray, "n g"]:
    """Values of X, or of a layer; missing ones are NaN.

    Raises
    ------
    InputError
        There is no such layer, or X is empty.
    """
    x = layer_of(adata, layer)
    if x is None:
        msg = f"X is empty; name one of the layers: {', '.join(adata.layers) or 'there are none'}"
        raise io.InputError(msg)
    return np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), float)


def counts(
    adata: anndata.AnnData, layer: str | None, owner: str = "adata", memory: float = np.inf
) -> np.ndarray | Sparse:
    """Checked counts, samples × genes, of an AnnData that messages call its owner.

    Parameters
    ----------
    memory
        Bytes that the process may take, of which a fit needs some, too.

    Raises
    ------
    InputError
        They are no counts, or a sample has none.
    """
    name = f"{owner}.X" if layer is None else f"{owner}.layers[{layer!r}]"
    x = layer_of(adata, layer)
    if not (isinstance(x, Counts) or io.on_disk(x)):
        msg = (
            f"{name} is {type(x).__name__}; counts must be a NumPy array or a SciPy matrix, "
            "in memory or on disk (h5ad, zarr)"
        )
        raise io.InputError(msg)
    y = io.by_gene(x, adata.var_names, adata.obs_names, name, _free(memory))
    empty = np.flatnonzero(library_size(y) == 0)
    if 0 < len(empty) < adata.n_obs:
        msg = (
            f"{name}: sample {adata.obs_names[empty[0]]} has no counts ({len(empty)} such): "
            "leave it out"
        )
        raise io.InputError(msg)
    return y


def _free(memory: float) -> float:
    """Bytes left for counts, of all that the process may take; none where the rest takes all."""
    taken = io.resident_memory()
    return np.inf if taken is None else max(memory - taken - io.WORKING, 0.0)


def cohort(
    adata: anndata.AnnData, coded: Design, layer: str | None, log_sizes: np.ndarray
) -> Pooled:
    """The rows that an analysis was fitted to.

    Raises
    ------
    InputError
        As for `counts`.
    """
    rows = samples(counts(adata, layer), coded.matrix)
    return Pooled(rows._replace(offset=log_sizes[:, None]))


def base_level(
    contrast: ContrastSpec | None, coded: Design, given: dict[str, str]
) -> dict[str, str]:
    """The reference level that a (factor, level, reference level) asks for, if it is another."""
    if contrast is None or isinstance(contrast, str) or len(contrast) != 3:
        return {}
    factor, _, base = map(str, contrast)
    # A factor or level that does not exist is for `io.contrast` to refuse.
    later = coded.levels.get(factor, ())[1:]
    return {factor: base} if factor not in given and base in later else {}


def trend_doubts(fit: deseq.DESeqFit) -> list[str]:
    """One line, logged too, where the trend fell back to the mean."""
    if fit.trend.kind != "mean":
        return []
    doubt = (
        "the dispersion trend a0 + a1 / mean does not fit these genes: "
        "their mean dispersion is used instead"
    )
    logger.warning("%s", doubt)
    return [doubt]
