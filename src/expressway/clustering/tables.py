"""Tables of a clustering."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from expressway._types import Float, Int
from expressway.core.cohort import Pooled, samples
from expressway.models import nb
from expressway.models.dirichlet import between
from expressway.models.expected_counts import Counts
from expressway.models.gene_clusters import Clustered
from expressway.models.gene_mixtures import Block, Mixtures, Sites, seen_by
from expressway.models.multiple_testing import benjamini_hochberg

from .steps import Data, Rows, Settings

# Draws of sticks and precisions from which intervals of weights are taken.
DRAWS = 4000
# Components of fewer expected genes than this are not counted as clusters.
COUNTED = 0.5


def ordered(block: Block) -> Int[np.ndarray, "a"]:
    """Components with half a gene at least, those of most genes first."""
    size, r = block.state.totals.size, block.values.responsibility
    kept = np.flatnonzero(size >= min(COUNTED, size.max()))
    often = np.bincount(kept[np.argmax(r[kept], axis=0)], minlength=len(size))
    return kept[np.lexsort((-size[kept], -often[kept]))]


def best(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Label of each gene, from 1, and its probability."""
    r = block.values.responsibility[ordered(block)]
    return np.argmax(r, axis=0) + 1, np.max(r, axis=0)


def coefficients(
    data: Data,
    mean: Float[np.ndarray, "u c"],
    covariance: Float[np.ndarray, "u c c"],
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Mean and standard deviation of each coordinate of every gene."""
    sd = np.sqrt(np.einsum("gcc->gc", covariance))
    found: dict[str, Any] = {"status": list(data.status)}
    for i, name in enumerate(data.names if names is None else names):
        for label, values in ((name, mean[:, i]), (f"{name}_sd", sd[:, i])):
            column = np.full(len(data.genes), np.nan)
            column[data.used] = values
            found[label] = column
    return pd.DataFrame(found, index=pd.Index(data.genes, name="gene"))


def labels(data: Data, found: Clustered, zero: float) -> pd.DataFrame:
    """Labels of every coordinate that is clustered."""
    parts = []
    clustered = [*range(data.shape), len(data.names) - 1]
    for i in clustered:
        block = found.mixtures.blocks[i]
        label, probability = best(block)
        none = np.full(len(data.used), np.nan)
        if 0 < i < data.shape:
            center = float(found.mixtures.center[i])
            seen = seen_by(
                block.coordinates,
                found.sites.shifted(found.mixtures.center),
                found.mixtures.mean - found.mixtures.center,
            )
            none = between(
                block.state.components, seen, block.state.active(), -zero - center, zero - center
            )
        parts.append(
            pd.DataFrame(
                {
                    "gene": [data.genes[j] for j in data.used],
                    "coefficient": data.names[i],
                    "label": label,
                    "probability": probability,
                    "probability_zero": none,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def modules(data: Data, together: Mixtures) -> pd.DataFrame:
    """Module of every gene."""
    label, probability = best(together.blocks[0])
    module = np.full(len(data.genes), np.nan)
    sure = np.full(len(data.genes), np.nan)
    module[data.used], sure[data.used] = label, probability
    return pd.DataFrame(
        {
            "module": pd.array(module, dtype="Int64"),
            "probability": sure,
            "status": list(data.status),
        },
        index=pd.Index(data.genes, name="gene"),
    )


def memberships(data: Data, together: Mixtures, places: Int[np.ndarray, "_"]) -> pd.DataFrame:
    """Probability of each module, gene × module."""
    block = together.blocks[0]
    r = block.values.responsibility[ordered(block)][:, places]
    return pd.DataFrame(
        r.T,
        index=pd.Index([data.genes[data.used[i]] for i in places], name="gene"),
        columns=pd.Index([str(j + 1) for j in range(len(r))], name="module"),
    )


def components(
    data: Data, sites: Sites, both: tuple[Mixtures, Mixtures], level: float
) -> pd.DataFrame:
    """Weights, means and spreads of components, with intervals of a probability.

    A gene with precision p of its estimate tells of the mean of a component with precision s what
    an estimate with variance ``1/s + 1/p`` does, and of s as much as ``(p / (p + s))²`` genes whose
    values are known.
    """
    each, together = both
    parts = []
    clustered = {*range(data.shape), len(data.names) - 1}
    for kind, mixtures, wanted in (
        ("coefficients", each, [b for b in each.blocks if b.coordinates[0] in clustered]),
        ("modules", together, [together.blocks[0]]),
    ):
        for block in wanted:
            q, order = block.state.components, ordered(block)
            weight = _weights(q.taken, q.left)[:, order]
            low, high = 0.5 - level / 2, 0.5 + level / 2
            for d, i in enumerate(block.coordinates):
                mean = q.mean[order, d] + mixtures.center[i]
                precision, base = q.precision[order, d][:, None], block.base
                own = sites.precision[:, i, i]
                r = block.values.responsibility[order]
                known = np.sum(r * (precision * own / (precision + own)), axis=1)
                reach = stats.norm.ppf(high) / np.sqrt(base.precision[d] + known)
                told = np.sum(r * (own / (precision + own)) ** 2, axis=1)
                shape = base.shape[d] + 0.5 * told
                rate = shape / precision[:, 0]
                parts.append(
                    pd.DataFrame(
                        {
                            "coefficient": data.names[i],
                            "mixture": kind,
                            "component": np.arange(len(order)) + 1,
                            "genes": block.state.totals.size[order],
                            "weight": np.mean(weight, axis=0),
                            "weight_lower": np.quantile(weight, low, axis=0),
                            "weight_upper": np.quantile(weight, high, axis=0),
                            "mean": mean,
                            "mean_lower": mean - reach,
                            "mean_upper": mean + reach,
                            "sd": np.sqrt(rate / shape),
                            "sd_lower": stats.gamma.ppf(high, shape, scale=1 / rate) ** -0.5,
                            "sd_upper": stats.gamma.ppf(low, shape, scale=1 / rate) ** -0.5,
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


def _weights(taken: np.ndarray, left: np.ndarray) -> Float[np.ndarray, "s j"]:
    """Draws of weights from the posterior of the sticks."""
    rng = np.random.default_rng(0)
    stick = rng.beta(taken, left, size=(DRAWS, len(taken)))
    rest = np.cumprod(1.0 - stick, axis=1)
    one = np.ones((DRAWS, 1))
    return np.hstack([stick, one]) * np.hstack([one, rest])


def curves(
    kind: str,
    names: Sequence[str],
    rows: Rows,
    eta: Float[np.ndarray, "g m"],
    reach: Float[np.ndarray, "g m"],
) -> pd.DataFrame:
    """Curves with intervals, in normalised counts."""
    number, m = eta.shape
    # Of genes without counts over a stretch, the interval there is without an upper end.
    ends = [np.exp(np.minimum(part, 700.0)) for part in (eta, eta - reach, eta + reach)]
    return pd.DataFrame(
        {
            "kind": kind,
            "name": np.repeat(np.array(names, dtype=object), m),
            "lineage": rows.lineage,
            "time": np.tile(rows.time, number),
            "mean": ends[0].ravel(),
            "lower": ends[1].ravel(),
            "upper": ends[2].ravel(),
        }
    )


def association(data: Data, of: Counts) -> pd.DataFrame:
    """Likelihood-ratio tests of curves."""
    k = data.shape
    z = np.column_stack([of.z[:, :1], of.z[:, k:]])
    rows = samples(np.ascontiguousarray(of.y.T), z)._replace(offset=of.offset[:, None])
    null = nb.fit(Pooled(rows))
    statistic = np.maximum(2.0 * (data.log_likelihood - null.log_likelihood), 0.0)
    p_value = stats.chi2.sf(statistic, k - 1)
    found = {name: np.full(len(data.genes), np.nan) for name in ("statistic", "p_value", "p_adj")}
    found["statistic"][data.used] = statistic
    found["p_value"][data.used] = p_value
    found["p_adj"][data.used] = benjamini_hochberg(p_value)
    return pd.DataFrame(
        {"status": list(data.status), **found, "df": k - 1},
        index=pd.Index(data.genes, name="gene"),
    )


def predictive(
    data: Data,
    of: Counts,
    mean: Float[np.ndarray, "u c"],
    covariance: Float[np.ndarray, "u c c"],
    settings: Settings,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> pd.DataFrame:
    """Observed statistics of counts beside those of counts drawn from the posterior."""
    draws, most = size
    some = np.unique(np.linspace(0, len(mean) - 1, min(most, len(mean))).astype(int))
    values, vectors = np.linalg.eigh(covariance[some])
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    factor = np.exp(of.offset)
    drawn = []
    for _ in range(draws):
        at = mean[some] + (root @ rng.normal(size=(len(some), mean.shape[1], 1)))[:, :, 0]
        mu = np.exp(np.minimum(of.offset + at[:, :-1] @ of.z.T, 20.0))
        r = np.exp(-np.clip(at[:, -1:], -18.0, 18.0))
        drawn.append(_statistics(rng.poisson(rng.gamma(r, mu / r)), factor))
    told, seen = np.array(drawn), _statistics(of.y[some], factor)
    low, high = np.quantile(told, [0.5 - settings.level / 2, 0.5 + settings.level / 2], axis=0)
    parts = [
        pd.DataFrame(
            {
                "gene": [data.genes[data.used[i]] for i in some],
                "statistic": name,
                "observed": seen[j],
                "expected": np.mean(told[:, j], axis=0),
                "lower": low[j],
                "upper": high[j],
            }
        )
        for j, name in enumerate(("zeros", "sd"))
    ]
    return pd.concat(parts, ignore_index=True)


def _statistics(y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Share of zeros, and standard deviation of the log of one more than normalised counts."""
    return np.stack([np.mean(y == 0, axis=1), np.std(np.log1p(y / factor), axis=1)])
