"""Which calls would survive without any single sample.

A call is an adjusted p-value below the fit's alpha. Without a sample it is judged by the same
p-value that the rate asked for with all of them: other genes' p-values change little by one sample,
and a threshold of its own for each sample would mix their changes with the gene's.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from expressway._types import Bool, Float, Int

from .leave_out import LeftOut, Reason

Kind = Literal["conditional", "pipeline"]
# A pair is fitted exactly where the call would be lost if the change were this many times the one
# predicted, or by so much of the statistic.
BOLD, SLACK = 2.0, 0.25

CALLS = {
    "survives": "the gene is called, and would be without any single sample",
    "lost": "the gene is called, but would not be without a sample",
    "untestable": "called, and without some sample the contrast cannot be estimated",
    "not_called": "the gene is not called with all samples",
}


class Survival(NamedTuple):
    """What becomes of each gene's call."""

    stat: Float[np.ndarray, "n g"]
    """Change of the statistic without each sample: exact where it was fitted."""
    call: Int[np.ndarray, "g"]
    """Place in `CALLS`."""
    worst: Int[np.ndarray, "g"]
    """The sample without which the statistic is nearest to 0, or beyond; -1 where nothing is."""
    losses: Int[np.ndarray, "g"]
    """Samples without which the call is lost."""
    exact: Bool[np.ndarray, "n g"]
    """Pairs that were fitted exactly."""
    cut: float
    """Statistic that a call needs."""


def cut(p_value: Float[np.ndarray, "g"], p_adj: Float[np.ndarray, "g"], alpha: float) -> float:
    """The statistic at the p-value that Benjamini and Hochberg's rule asks for: alpha k / m.

    k genes of m are called; infinity where none is.
    """
    tested = np.isfinite(p_adj)
    k = np.sum(p_adj[tested] < alpha)
    if not k:
        return np.inf
    # Not above what the calls have: rounding, or equal p-values, must not undo one.
    p = max(alpha * k / np.sum(tested), np.max(p_value[tested][p_adj[tested] < alpha]))
    return float(-special.ndtri(p / 2))


def survival(
    stat: Float[np.ndarray, "g"],
    called: Bool[np.ndarray, "g"],
    limit: float,
    step: Float[np.ndarray, "n g"],
    refit: Callable[[Bool[np.ndarray, "n g"]], LeftOut],
    *,
    thorough: bool = False,
) -> Survival:
    """What becomes of the calls, predicted, and fitted exactly where that is in doubt.

    Parameters
    ----------
    stat, called, limit
        Statistics, which genes are called, and the statistic a call needs.
    step
        Predicted changes of the statistic (`Influence.step`).
    refit
        Exact changes of pairs of samples and genes.
    thorough
        Every call is fitted, whatever is predicted.
    """
    side = np.sign(stat)
    bold = side * stat + np.minimum(BOLD * side * step, 0.0)
    doubt = called & (thorough | ~(bold >= limit + SLACK))
    left = refit(doubt)
    exact = doubt & (left.reason == Reason.OK)
    change = np.where(exact, left.stat[0], step)
    after = np.where(np.isfinite(change), side * (stat + change), np.inf)
    gone = doubt & (left.reason == Reason.NO_COUNTS)
    after = np.where(gone, -np.inf, after)
    open_ = doubt & ~exact & ~gone
    after[open_] = np.inf
    lost = called & (after < limit)
    losses = np.sum(lost, axis=0)
    call = np.where(losses > 0, 1, np.where(np.any(open_, axis=0), 2, 0))
    known = np.any(np.isfinite(step), axis=0) & np.isfinite(stat)
    return Survival(
        stat=change,
        call=np.where(called, call, 3),
        worst=np.where(known, np.argmin(after, axis=0), -1),
        losses=losses,
        exact=exact,
        cut=limit,
    )
