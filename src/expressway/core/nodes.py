"""Operations on series: a value's coefficients, and the rules that find the next one."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Coefficient = Any  # an array, or None for zero


class Cell:
    """Coefficients of one value of the program, found so far.

    The cell of a derivative has those of what it is the derivative of: ``(k + 1) v_{k+1}``.
    """

    def __init__(self, aval: Any, *, constant: bool = False, of: "Cell | None" = None) -> None:
        self.aval, self.constant, self._of = aval, constant, of
        self._found: list[Coefficient] = []

    def at(self, k: int) -> Coefficient:
        """Coefficient of order k; None where it is zero."""
        if self._of is not None:
            value = self._of.at(k + 1)
            return None if value is None else (k + 1) * value
        return self._found[k] if k < len(self._found) else None

    def set(self, k: int, value: Coefficient) -> None:
        """Set coefficient k; a constant has the first only."""
        if self.constant and k > 0:
            return
        if k == len(self._found):
            self._found.append(value)
        else:
            self._found[k] = value

    @property
    def smooth(self) -> bool:
        """Whether it can have derivatives: a floating-point number."""
        return bool(jnp.issubdtype(self.aval.dtype, jnp.inexact))

    @functools.cached_property
    def primed(self) -> "Cell":
        """Its derivative's cell, always the same one."""
        return Cell(self.aval, of=self)


class Node:
    """One operation: coefficient k of its outputs from the coefficients of its inputs.

    Attributes
    ----------
    level
        How many derivatives it lags behind the program.
    nodes, inner
        A program of its own that a rule needs, and the cells of its outputs.
    rule
        ``rule(node, k)`` finds coefficient k > 0.
    """

    def __init__(self, eqn: Any, given: list[Cell], outs: list[Cell], level: int) -> None:
        self.eqn, self.given, self.outs, self.level = eqn, given, outs, level
        self.nodes: list[Any] = []
        self.inner: list[Cell] | None = None
        self.rule: Callable[[Any, int], None] = constant

    def advance(self, k: int) -> None:
        """Find coefficient k."""
        if k > 0:
            self.rule(self, k)
            return
        # The first coefficient of a derivative may be zero.
        given = [zeros(c) if c.at(0) is None else c.at(0) for c in self.given]
        self.put(0, bind(self.eqn, given))
        if self.eqn.primitive.name == "custom_linear_solve":
            self.deeper(0)

    def deeper(self, k: int) -> None:
        """Find coefficient k of the program of its own."""
        for node in self.nodes:
            node.advance(k)

    def put(self, k: int, values: Sequence[Coefficient]) -> None:
        """Set coefficient k of the outputs."""
        for cell, value in zip(self.outs, values, strict=True):
            cell.set(k, value)


def constant(node: Node, k: int) -> None:
    """Of constants, or not smooth: an index, a mask."""


def linear(node: Node, k: int) -> None:
    """Linear in all smooth arguments together."""
    parts = [c.at(k) if c.smooth else c.at(0) for c in node.given]
    pairs = list(zip(parts, node.given, strict=True))
    if all(p is None for p, c in pairs if c.smooth):
        node.put(k, [None] * len(node.outs))
    else:
        node.put(k, bind(node.eqn, [zeros(c) if p is None else p for p, c in pairs]))


def bilinear(node: Node, k: int) -> None:
    """``y_k = sum_i f(a_i, b_{k-i})``."""
    a, b = node.given
    pairs = ((a.at(i), b.at(k - i)) for i in range(k + 1))
    parts = [bind(node.eqn, p)[0] for p in pairs if p[0] is not None and p[1] is not None]
    node.put(k, [functools.reduce(operator.add, parts) if parts else None])


def quotient(node: Node, k: int) -> None:
    """``q_k = (a_k - sum_{j>0} b_j q_{k-j}) / b_0``."""
    a, b = node.given
    q = node.outs[0]
    parts = [] if a.at(k) is None else [a.at(k)]
    pairs = ((b.at(j), q.at(k - j)) for j in range(1, k + 1))
    parts += [-(p[0] * p[1]) for p in pairs if p[0] is not None and p[1] is not None]
    below = zeros(b) if b.at(0) is None else b.at(0)
    q.set(k, functools.reduce(operator.add, parts) / below if parts else None)


def solve(node: Node, k: int) -> None:
    """A linear solve ``A y = b``: ``y_k = A_0⁻¹ (b_k - [A y]_k)`` with y_k left out."""
    right = node.given[sum(node.eqn.params["const_lengths"]) :]
    node.put(k, [None] * len(node.outs))
    node.deeper(k)
    rest = []
    for b, product in zip(right, node.inner or [], strict=True):
        value = zeros(b) if b.at(k) is None else b.at(k)
        rest.append(value if product.at(k) is None else value - product.at(k))
    first = [c.at(0) for c in node.given[: -len(right)]]
    node.put(k, bind(node.eqn, [*first, *rest]))
    node.deeper(k)


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The primitive's results, always a list."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # JAX < 0.10: a pair
    found = eqn.primitive.bind(*functions, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def zeros(cell: Cell) -> jax.Array:
    """Zeros like a cell."""
    return jnp.zeros(cell.aval.shape, cell.aval.dtype)


def fixed(aval: Any, value: Any) -> Cell:
    """The cell of a constant."""
    cell = Cell(aval, constant=True)
    cell.set(0, value)
    return cell
