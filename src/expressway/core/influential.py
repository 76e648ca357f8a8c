"""The smallest set of observations without which a conclusion is another one.

First-order scores drop the observations whose influence on the conclusion is largest until it is
predicted to flip (Broderick, Giordano & Meager 2020, arXiv:2011.14999). Scores of one fit add up,
so observations that mask each other stay hidden; so the scores are computed again at the refit
after each removal (Kuschnig, Zens & Crespo Cuaresma 2021; Hu, Hu, Zhao & Ma 2024,
arXiv:2408.09008), and small sets are tried one and all. Every claim is checked by a refit.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._errors import Unfinished
from expressway._types import Float, Int

from .conclusion import Conclusion, Influential, Question, concluded, no_product
from .functions import Functions
from .implicit import refactored
from .inverse import LU
from .rows import score_of

if TYPE_CHECKING:
    from .jackknife import Jackknife

Change = Literal["sign", "significance", "both"]
# Largest sets that are tried one and all.
TRIED = 3
# Sets that are tried one and all, and how many are at work together.
BUDGET, TOGETHER = 200_000, 1024
# More observations than this are wanted: several are removed between two refits.
STEPS = 40
# Sets of those that are predicted to flip which are refitted, the strongest first.
CHECKED = 5
# Where the curvature of each observation is looked at: parameters, numbers of all of them together,
# and observations of a problem that is not given row by row.
SMALL, MEMORY, BY_JVP = 60, 2**26, 2000


def most_influential(
    jack: "Jackknife",
    quantity: Callable[[Any], Any],
    change: Change = "sign",
    *,
    method: Literal["recursive", "greedy", "first-order"] = "recursive",
    level: float = 0.05,
    most: int | None = None,
    standard_error: Literal["sandwich", "hessian"] = "sandwich",
) -> Influential:
    """The smallest set of observations whose removal changes a conclusion, checked by a refit.

    Parameters
    ----------
    jack
        The jackknife of a solution of one stage.
    quantity
        Smooth function of theta with one number as result: a coefficient, a difference.
    change
        "sign": the estimate changes sign. "significance": ``|estimate| > z SE`` becomes false, or
        true where it was false. "both": significant with the other sign.
    method
        "first-order" computes scores once; "greedy" again after each removal; "recursive" does
        that, and tries all smaller sets of up to three observations, by a Newton step without
        each, as long as there are no more than 200,000 (among more observations those of largest
        leverage and influence).
    level
        Two-sided level of significance.
    most
        Observations removed at most; a tenth of all, and at least three, when not given.
    standard_error
        "sandwich" (infinitesimal jackknife), or "hessian": ``phi' H⁻¹ phi``, right where the
        objective is a negative log-likelihood.

    Returns
    -------
    Influential
        ``found`` is False where no set of at most ``most`` observations was found.

    Raises
    ------
    ValueError
        The quantity is not one number, or the problem has several stages.
    """
    if len(jack.fit.stages) > 1:
        msg = "the most influential set is of one problem; a staged one has no single refit"
        raise ValueError(msg)
    if change not in ("sign", "significance", "both"):
        msg = f"change {change!r}, needed is sign, significance or both"
        raise ValueError(msg)
    limit = min(max(3, jack.count // 10) if most is None else most, jack.count - 1)
    search = _Search(jack, quantity, change, level, standard_error)
    target, scores = search.scored(search.start)
    order = np.argsort(-scores)
    total = target - np.cumsum(np.maximum(scores[order], 0.0))
    flips = np.flatnonzero(total < 0)
    predicted = int(flips[0]) + 1 if len(flips) else -1
    if method == "first-order":
        return search.one_shot(order, predicted, limit)
    greedy = search.greedy(limit, predicted)
    fewer = len(greedy.removed) - 1 if greedy.flipped else limit
    small = search.small(min(TRIED, fewer) if method == "recursive" else 0)
    if small.best is not None:
        return search.result(small.best, predicted, "exhaustive", smallest=True)
    if not greedy.flipped:
        return search.none(greedy, predicted, limit)
    smallest = small.tried >= len(greedy.removed) - 1
    return search.result(greedy, predicted, "greedy", smallest=smallest)


class _State(NamedTuple):
    """A refit without some observations."""

    removed: tuple[int, ...]
    t: Any
    h: Any
    flipped: bool


class _Small(NamedTuple):
    best: _State | None
    tried: int
    """Every set up to this size was tried."""


class _Search:
    """Refits, scores and targets of one question.

    The target is positive until the conclusion changes: with s the estimate's sign, ``s phi`` for
    the sign, ``s phi - z SE`` for significance (minus that, to gain it), ``s phi + z SE`` for both.
    """

    def __init__(
        self, jack: "Jackknife", quantity: Any, change: Change, level: float, standard_error: str
    ) -> None:
        self.jack, self.change = jack, change
        self.stage = jack.fit.stages[0]
        self.system, self.held = self.stage.system, self.stage.functions.held
        self.z = float(-special.ndtri(level / 2))
        self.refits = 0
        found = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(quantity, jack.fit.theta))]
        if found != [()]:
            msg = f"the quantity has shapes {found}, needed is one number: theta['slope'], say"
            raise ValueError(msg)
        if standard_error == "hessian" and not self.system.symmetric:
            msg = 'an equation has no Hessian to take standard errors from; use "sandwich"'
            raise ValueError(msg)
        rows = getattr(jack.fit.problem, "rows", None)
        size = self.system.theta.size
        self._row = rows
        self._leverage = (
            size <= SMALL
            and jack.count * size**2 <= MEMORY
            and (rows is not None or jack.count <= BY_JVP)
        )
        self._index = jnp.asarray(jack.index)
        at = functools.partial(
            concluded, Question(self.system, quantity, standard_error, self._index)
        )
        self._concluded = jax.jit(lambda t, h, held: at(self._inverse(t, h, held), t, h, held))
        h0 = jnp.asarray(self.stage.functions.h)
        self.start = _State((), jnp.asarray(self.stage.found.t), h0, False)
        self.before = self.conclusion(self.start)
        sign = 1.0 if self.before.estimate >= 0 else -1.0
        self.sign, self.significant = sign, abs(self.before.statistic) > self.z
        turn = -1.0 if change == "significance" and not self.significant else 1.0
        weight = {"sign": 0.0, "both": self.z}.get(change, -self.z)

        def target(inverse: Any, t: Any, h: Any, held: Any) -> Any:
            if weight == 0.0:
                return turn * sign * quantity(self.system.forward(t))
            estimate, error = at(inverse, t, h, held)
            return turn * (sign * estimate + weight * error)

        self._scored = jax.jit(functools.partial(self._of_each, target))
        self._stepped = jax.jit(
            jax.vmap(functools.partial(self._without, target), (None, None, None, None, 0))
        )

    def _inverse(self, t: Any, h: Any, held: Any) -> Any:
        product = functools.partial(self.system.push, t, h, held)
        return refactored(self.stage.inverse, product, t)

    def _of_each(self, target: Any, t: Any, h: Any, held: Any) -> Any:
        """The target, and its derivative in each weight times the weight."""
        inverse = self._inverse(t, h, held)
        value, (by_t, by_h) = jax.value_and_grad(target, (1, 2))(inverse, t, h, held)
        back = inverse.transposed(functools.partial(self.system.push, t, h, held), by_t)
        through = jax.vjp(lambda h: self.system.raw(t, h, held), h)[1](back)[0]
        return value, ((by_h - through) * h)[self._index]

    def _without(
        self, target: Any, t: Any, h: Any, held: Any, parts: tuple[Any, Any, Any], at: Any
    ) -> Any:
        """The target after a Newton step without a set.

        Parts are the Jacobian, and what each observation of a pool adds to the gradient and to it;
        ``at`` says which are left out.
        """
        whole, gone, curve = parts
        left = whole - jnp.sum(curve[at[1]], axis=0)
        inverse = LU(*jax.scipy.linalg.lu_factor(left))
        moved = t + inverse.solve(no_product, jnp.sum(gone[at[1]], axis=0))
        return target(inverse, moved, h.at[self._index[at[0]]].set(0.0), held)

    def conclusion(self, state: _State) -> Conclusion:
        """Estimate and standard error at a solution."""
        estimate, error = (float(a) for a in self._concluded(state.t, state.h, self.held))
        return Conclusion(estimate, error, estimate / error if error > 0 else np.nan)

    def flipped(self, after: Conclusion) -> bool:
        """Whether the conclusion is another one."""
        if self.change == "sign":
            return self.sign * after.estimate < 0
        if self.change == "significance":
            return (abs(after.statistic) > self.z) != self.significant
        return -self.sign * after.statistic > self.z

    def scored(self, state: _State) -> tuple[float, Float[np.ndarray, "n"]]:
        """The target, and by how much it falls without each observation, to first order."""
        value, found = self._scored(state.t, state.h, self.held)
        return float(value), np.array(found)

    def scores(self, state: _State) -> Float[np.ndarray, "n"]:
        """By how much the target falls without each observation; -inf for those removed.

        First-order, or corrected for each one's own leverage where the problem is small: the
        prediction of a Newton step without it.
        """
        value, found = self.scored(state)
        if self._leverage:
            everyone = np.arange(self.jack.count)  # also those removed: nothing compiles twice
            after = self._after(state, everyone, everyone[:, None])
            found = np.where(np.isfinite(after), value - after, found)
        found[list(state.removed)] = -np.inf
        return found

    def _after(
        self, state: _State, pool: Int[np.ndarray, "m"], sets: Int[np.ndarray, "s k"]
    ) -> Float[np.ndarray, "s"]:
        """The target after a Newton step without each set of a pool."""
        gone, curve = self._parts(state, pool)
        f = Functions(self.system, state.h, self.held, "dense")
        whole = jnp.asarray(f.matrix(state.t))
        found = []
        for first in range(0, len(sets), TOGETHER):
            some = sets[first : first + TOGETHER]
            # The last batch is filled up: one shape to compile.
            full = np.resize(some, (min(TOGETHER, len(sets)), sets.shape[1]))
            at = jnp.asarray(np.stack([pool[full], full], axis=1))
            value = self._stepped(state.t, state.h, self.held, (whole, gone, curve), at)
            found.append(np.asarray(value)[: len(some)])
        return np.concatenate(found)

    def _parts(self, state: _State, pool: Int[np.ndarray, "m"]) -> tuple[Any, Any]:
        """What each observation adds to the gradient and to the Jacobian."""
        if self._row is None:
            return self._by_jvp(state.t, state.h, self.held, self._index[pool])
        rows = jax.tree.map(lambda a: a[pool], self._row.data)
        weight = state.h[self._index[pool]]
        hyper = self.system.hyper.tree(state.h).hyper
        gone, curve = self._by_row(state.t, hyper, rows)
        return gone * weight[:, None], curve * weight[:, None, None]

    @functools.cached_property
    def _by_row(self) -> Callable[..., Any]:
        score = score_of(self.system, self.jack.fit.problem.rows)
        both = lambda t, hyper, row: (score(t, hyper, row), jax.jacfwd(score)(t, hyper, row))  # noqa: E731
        return jax.jit(jax.vmap(both, (None, None, 0)))

    @functools.cached_property
    def _by_jvp(self) -> Callable[..., Any]:
        def both(t: Any, h: Any, held: Any, at: Any) -> Any:
            direction = jnp.zeros_like(h).at[at].set(h[at])

            def of(h: Any) -> Any:
                push = functools.partial(self.system.push, t, h, held)
                return self.system.raw(t, h, held), jax.vmap(push)(jnp.eye(t.size)).T

            return jax.jvp(of, (h,), (direction,))[1]

        return jax.jit(jax.vmap(both, (None, None, None, 0)))

    def without(self, state: _State, more: tuple[int, ...]) -> _State:
        """The refit without more observations.

        Raises
        ------
        Unfinished
            There is no solution without them.
        """
        h = state.h.at[self._index[np.array(more)]].set(0.0)
        found = self.stage.moved(h, state.t)
        self.refits += 1
        if found.inverse is None:
            msg = "what is left does not determine the parameters"
            raise Unfinished(msg, None)
        fresh = _State((*state.removed, *more), jnp.asarray(found.t), h, flipped=False)
        return fresh._replace(flipped=self.flipped(self.conclusion(fresh)))

    def greedy(self, limit: int, predicted: int) -> _State:
        """Remove the strongest, refit, score again; then put back what is not needed."""
        state = self.start
        together = max(1, -(-predicted // STEPS))
        while len(state.removed) < limit and not state.flipped:
            scores = self.scores(state)
            best = np.argsort(-scores)[: min(together, limit - len(state.removed))]
            best = best[scores[best] > 0]
            try:
                if not len(best):
                    break
                state = self.without(state, tuple(int(i) for i in best))
            except (Unfinished, ValueError):
                break
        for i in state.removed if state.flipped else ():
            rest = tuple(j for j in state.removed if j != i)
            if rest:
                fewer = self.without(self.start._replace(t=state.t), rest)
                state = fewer if fewer.flipped else state
        return state

    def small(self, size: int) -> _Small:
        """The smallest set of few observations that flips, of all there are."""
        tried = 0
        for k in range(1, size + 1 if self._leverage else 1):
            pool = self._pool(k)
            sets = np.array(list(itertools.combinations(range(len(pool)), k)))
            after = self._after(self.start, pool, sets)
            best = np.argsort(np.where(np.isfinite(after), after, np.inf))[:CHECKED]
            for at in best[after[best] < 0]:
                try:
                    state = self.without(self.start, tuple(int(i) for i in pool[sets[at]]))
                except (Unfinished, ValueError):
                    continue
                if state.flipped:
                    return _Small(state, tried)
            tried = k if len(pool) == self.jack.count and tried == k - 1 else tried
        return _Small(None, tried)

    def _pool(self, k: int) -> Int[np.ndarray, "m"]:
        """Observations of which all sets of k can be tried: influential, or of much leverage."""
        n = size = self.jack.count
        while size > k and math.comb(size, k) > BUDGET:
            size -= max(1, size // 50)
        if size >= n:
            return np.arange(n)
        by_score = np.argsort(-self.scores(self.start))
        by_size = np.argsort(-np.linalg.norm(np.asarray(self._leverages()), axis=1))
        pairs = zip(by_score.tolist(), by_size.tolist(), strict=True)
        return np.array(list(dict.fromkeys(itertools.chain(*pairs)))[:size])

    def _leverages(self) -> Float[np.ndarray, "n d"]:
        """Diagonals of ``A⁻¹`` times what each observation adds to A."""
        _gone, curve = self._parts(self.start, np.arange(self.jack.count))
        solved = jnp.linalg.inv(
            Functions(self.system, self.start.h, self.held, "dense").matrix(self.start.t)
        )
        return np.asarray(jnp.einsum("de,ned->nd", solved, curve))

    def one_shot(self, order: Int[np.ndarray, "n"], predicted: int, limit: int) -> Influential:
        """What first-order scores say, checked by a refit."""
        count = predicted if 0 < predicted <= limit else limit
        chosen = tuple(int(i) for i in order[:count])
        try:
            state = self.without(self.start, chosen)
        except (Unfinished, ValueError) as error:
            state = self.start._replace(removed=chosen)
            return self.none(state, predicted, limit, "first-order", f"the refit failed: {error}")
        if state.flipped:
            return self.result(state, predicted, "first-order", smallest=False)
        reason = (
            f"predicted to change without {count} observations, but the refit says otherwise"
            if predicted == count
            else f"the scores of no {limit} observations add up to a change, and a refit shows none"
        )
        return self.none(state, predicted, limit, "first-order", reason)

    def result(self, state: _State, predicted: int, method: str, *, smallest: bool) -> Influential:
        """A set that was found."""
        return self._answer(state, predicted, method, "checked by a refit", smallest=smallest)

    def none(
        self, state: _State, predicted: int, limit: int, method: str = "greedy", reason: str = ""
    ) -> Influential:
        """No set was found."""
        reason = reason or f"no set of at most {limit} observations was found"
        return self._answer(state, predicted, method, reason)

    def _answer(
        self, state: _State, predicted: int, method: str, reason: str, *, smallest: bool = False
    ) -> Influential:
        gone, after = np.array(state.removed, dtype=int), self.conclusion(state)
        numbers = (gone, self.before, after, predicted)
        return Influential(state.flipped, *numbers, method, smallest, self.refits, reason)
