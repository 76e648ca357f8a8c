"""Taylor-mode differentiation: a function of series in one variable, one order after the other.

Every value of a program is a truncated series ``v(e) = v_0 + v_1 e + v_2 e² …``. A `Tape` holds a
program with the coefficients found so far and computes the next ones from them, so that an unknown
series (an optimum's) can be solved for on the way: order k of what it enters depends on its lower
orders, and linearly on its own order k. Work grows with the square of the order.

Three rules serve every primitive. A linear one is applied to each order. A bilinear one is a
Cauchy product. For the others, y = f(x) obeys ``y' = df(x)[x']``, where df is f's own JVP rule, so
``k y_k`` is coefficient k - 1 of a program that is on the tape, too; where it needs y itself
(``exp' = exp``) it finds it there, and the recurrence of the textbook results (Griewank & Walther
2008, Evaluating Derivatives, section 13.2). Loops and branches carry series through.
"""

import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

Coefficient = Any  # an array, or None for zero
# Applied to all their floating-point arguments at once; the others (indices, masks) are constant.
LINEAR = frozenset(
    [
        "add", "add_any", "broadcast_in_dim", "complex", "concatenate", "conj",
        "convert_element_type", "copy", "copy_p", "cumsum", "dynamic_slice",
        "dynamic_update_slice", "expand_dims", "fft", "gather", "imag", "neg",
        "optimization_barrier", "pad", "real", "reduce_precision", "reduce_sum",
        "reduce_window_sum", "reshape", "rev", "scatter", "scatter-add", "scatter_add",
        "select_n", "slice", "split", "squeeze", "sub", "tile", "transpose",
    ]
)  # fmt: skip
BILINEAR = frozenset(("mul", "dot_general", "conv_general_dilated"))
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
# Differentiated by their JVP rules, and compared with nested forward mode in the tests.
TESTED = frozenset(
    [
        "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
        "cholesky", "clamp", "cos", "cosh", "cumlogsumexp", "cummax", "cumprod",
        "custom_jvp_call", "digamma", "eigh", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1",
        "floor", "integer_pow", "lgamma", "log", "log1p", "logistic", "lu", "max", "min",
        "polygamma", "pow", "qr", "reduce_max", "reduce_min", "reduce_prod", "rem", "round",
        "rsqrt", "sign", "sin", "sinh", "sort", "sqrt", "square", "stop_gradient", "svd", "tan",
        "tanh", "triangular_solve",
    ]
)  # fmt: skip


class Cell:
    """Coefficients of one value of the program, found so far."""

    def __init__(self, aval: Any, *, constant: bool = False) -> None:
        self.aval, self.constant = aval, constant
        self._found: list[Coefficient] = []
        self._primed: _Primed | None = None

    def at(self, k: int) -> Coefficient:
        """Coefficient of order k; None where it is zero."""
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
        return jnp.issubdtype(self.aval.dtype, jnp.inexact)

    @property
    def primed(self) -> "_Primed":
        """Its derivative's cell, always the same one."""
        self._primed = self._primed or _Primed(self)
        return self._primed


class _Primed(Cell):
    """The derivative of a cell: coefficient k is ``(k + 1) v_{k+1}``."""

    def __init__(self, of: Cell) -> None:
        super().__init__(of.aval)
        self._of = of

    def at(self, k: int) -> Coefficient:
        value = self._of.at(k + 1)
        return None if value is None else (k + 1) * value


class _Node(Protocol):
    """One operation: coefficient k of its outputs from the coefficients of its inputs."""

    level: int

    def advance(self, k: int) -> None:
        """Find coefficient k."""
        ...


class Tape:
    """A program on series.

    Parameters
    ----------
    program
        Its jaxpr.
    varying
        For each argument whether it is a series; the others are constant.

    Notes
    -----
    Give ``inputs[i].set(k, value)`` for every argument, `advance` to order k, and read
    ``outputs[j].at(k)``. An order may be advanced again after an input's coefficient changed.
    """

    def __init__(self, program: core.ClosedJaxpr, varying: Sequence[bool]) -> None:
        builder = _Builder()
        self.inputs = [
            Cell(var.aval, constant=not free)
            for var, free in zip(program.jaxpr.invars, varying, strict=True)
        ]
        self._nodes: list[_Node] = []
        self.outputs = builder.inline(program, self.inputs, self._nodes, 0)

    def advance(self, k: int) -> None:
        """Find coefficient k of everything."""
        for node in self._nodes:
            node.advance(k)


class _Builder:
    """Nodes of a program, each made once for the same operation on the same cells."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[_Node, list[Cell]]] = {}

    def inline(
        self, program: core.ClosedJaxpr, inputs: Sequence[Cell], nodes: list[_Node], level: int
    ) -> list[Cell]:
        """Cells of the outputs; the nodes that are needed are added to a list."""
        cells: dict[Any, Cell] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        for var, value in zip(program.jaxpr.constvars, program.consts, strict=True):
            cells[var] = _fixed(var.aval, value)

        def cell(atom: Any) -> Cell:
            return _fixed(atom.aval, atom.val) if isinstance(atom, core.Literal) else cells[atom]

        for eqn in _needed(program):
            given = [cell(atom) for atom in eqn.invars]
            for var, out in zip(eqn.outvars, self._apply(eqn, given, nodes, level), strict=True):
                cells[var] = out
        return [cell(atom) for atom in program.jaxpr.outvars]

    def _apply(self, eqn: Any, given: list[Cell], nodes: list[_Node], level: int) -> list[Cell]:
        name = eqn.primitive.name
        if name in CALLS:
            if name.startswith("custom_vjp"):
                _warn(f"{name}: differentiated through the function itself, not by its own rule")
            inner = eqn.params[CALLS[name]]
            closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            return self.inline(closed, given, nodes, level)
        if name == "integer_pow" and not given[0].constant and 2 <= eqn.params["y"] <= 64:
            return self.inline(_power(given[0].aval, eqn.params["y"]), given, nodes, level)
        key = _key(eqn, given)
        if key is not None and key in self._known:
            node, outs = self._known[key]
            if node.level >= level:
                node.level = level
                nodes.append(node)
            return outs
        fixed = all(c.constant for c in given) or name == "stop_gradient"
        outs = [Cell(var.aval) for var in eqn.outvars]
        for out in outs:
            out.constant = fixed or not out.smooth
        node = self._node(eqn, given, outs, level)
        if key is not None:
            self._known[key] = node, outs
        nodes.append(node)
        return outs

    def _node(self, eqn: Any, given: list[Cell], outs: list[Cell], level: int) -> _Node:
        name = eqn.primitive.name
        if all(out.constant for out in outs):
            return _Fixed(eqn, given, outs, level)
        if name in LINEAR:
            return _Linear(eqn, given, outs, level)
        if name in BILINEAR:
            return _Bilinear(eqn, given, outs, level)
        if name == "div":
            return _Quotient(eqn, given, outs, level)
        if name == "custom_linear_solve":
            return _Solve(self, eqn, given, outs, level)
        if name in _FLOW:
            return _Flow(eqn, given, outs, level)
        if name not in TESTED:
            _warn(f"{name} has no Taylor rule of its own: differentiated by its JVP rule, slowly")
        return _Smooth(self, eqn, given, outs, level)


class _Fixed:
    """An operation on constants, or one whose result is not smooth: an index, a mask."""

    def __init__(self, eqn: Any, given: list[Cell], outs: list[Cell], level: int) -> None:
        self._eqn, self._given, self._outs, self.level = eqn, given, outs, level

    def advance(self, k: int) -> None:
        if k == 0:
            # The first coefficient of a derivative may be zero.
            given = [_zeros(c) if c.at(0) is None else c.at(0) for c in self._given]
            _put(self._outs, 0, _bind(self._eqn, given))


class _Linear(_Fixed):
    """Linear in all smooth arguments together."""

    def advance(self, k: int) -> None:
        if k == 0:
            return super().advance(0)
        parts = [c.at(k) if c.smooth else c.at(0) for c in self._given]
        if all(p is None for p, c in zip(parts, self._given, strict=True) if c.smooth):
            return _put(self._outs, k, [None] * len(self._outs))
        full = [_zeros(c) if p is None else p for p, c in zip(parts, self._given, strict=True)]
        return _put(self._outs, k, _bind(self._eqn, full))


class _Bilinear(_Fixed):
    """``y_k = sum_i f(a_i, b_{k-i})``."""

    def advance(self, k: int) -> None:
        a, b = self._given
        pairs = ((a.at(i), b.at(k - i)) for i in range(k + 1))
        parts = [_bind(self._eqn, p)[0] for p in pairs if p[0] is not None and p[1] is not None]
        self._outs[0].set(k, functools.reduce(operator.add, parts) if parts else None)


class _Quotient(_Fixed):
    """``q_k = (a_k - sum_{j>0} b_j q_{k-j}) / b_0``."""

    def advance(self, k: int) -> None:
        a, b = self._given
        q = self._outs[0]
        parts = [] if a.at(k) is None else [a.at(k)]
        pairs = ((b.at(j), q.at(k - j)) for j in range(1, k + 1))
        parts += [-(p[0] * p[1]) for p in pairs if p[0] is not None and p[1] is not None]
        q.set(k, functools.reduce(operator.add, parts) / b.at(0) if parts else None)


class _Smooth(_Fixed):
    """``k y_k`` is coefficient k - 1 of ``df(x)[x']``, df the primitive's own JVP rule."""

    def __init__(self, builder: _Builder, eqn: Any, given: Any, outs: Any, level: int) -> None:
        super().__init__(eqn, given, outs, level)
        self._builder = builder
        self._nodes: list[_Node] = []
        self._primed: list[Cell] | None = None

    def advance(self, k: int) -> None:
        if k == 0:
            return super().advance(0)
        if self._primed is None:
            self._primed = self._derived()
        for node in self._nodes:
            node.advance(k - 1)
        smooth = [out for out in self._outs if out.smooth]
        for out, primed in zip(smooth, self._primed, strict=True):
            value = primed.at(k - 1)
            out.set(k, None if value is None else value / k)
        return None

    def _derived(self) -> list[Cell]:
        given, eqn = self._given, self._eqn
        free = [i for i, c in enumerate(given) if c.smooth and not c.constant]

        def derivative(values: list[Any], moves: list[Any]) -> list[Any]:
            def of_free(*some: Any) -> list[Any]:
                full = list(values)
                for i, value in zip(free, some, strict=True):
                    full[i] = value
                found = _bind(eqn, full)
                return [y for y, out in zip(found, self._outs, strict=True) if out.smooth]

            return jax.jvp(of_free, [values[i] for i in free], moves)[1]

        shapes = [jax.ShapeDtypeStruct(c.aval.shape, c.aval.dtype) for c in given]
        try:
            program = jax.make_jaxpr(derivative)(shapes, [shapes[i] for i in free])
        except (NotImplementedError, TypeError, ValueError) as error:
            msg = f"{eqn.primitive.name} has no derivative: {str(error).splitlines()[0]}"
            raise TypeError(msg) from error
        inputs = [*given, *(given[i].primed for i in free)]
        return self._builder.inline(program, inputs, self._nodes, self.level + 1)


class _Solve(_Fixed):
    """A linear solve ``A y = b``: ``y_k = A_0⁻¹ (b_k - [A y]_k)`` with y_k left out."""

    def __init__(self, builder: _Builder, eqn: Any, given: Any, outs: Any, level: int) -> None:
        super().__init__(eqn, given, outs, level)
        count = eqn.params["const_lengths"].matvec
        self._right = given[sum(eqn.params["const_lengths"]) :]
        self._nodes: list[_Node] = []
        matvec = eqn.params["jaxprs"].matvec
        self._product = builder.inline(matvec, [*given[:count], *outs], self._nodes, level)

    def advance(self, k: int) -> None:
        if k == 0:
            super().advance(0)
        else:
            _put(self._outs, k, [None] * len(self._outs))
            for node in self._nodes:
                node.advance(k)
            rest = []
            for b, p in zip(self._right, self._product, strict=True):
                right = _zeros(b) if b.at(k) is None else b.at(k)
                rest.append(right if p.at(k) is None else right - p.at(k))
            first = [c.at(0) for c in self._given[: -len(self._right)]]
            _put(self._outs, k, _bind(self._eqn, [*first, *rest]))
        for node in self._nodes:
            node.advance(k)


class _Flow(_Fixed):
    """A loop or branch: coefficients up to order k go through it together."""

    def advance(self, k: int) -> None:
        if k == 0:
            return super().advance(0)
        given = [
            [_zeros(c) if c.at(j) is None else c.at(j) for j in range(k + 1 if c.smooth else 1)]
            for c in self._given
        ]
        found = _FLOW[self._eqn.primitive.name](self._eqn, given)
        return _put(self._outs, k, [series[k] if len(series) > k else None for series in found])


def through(program: core.ClosedJaxpr, given: Sequence[list[Any]]) -> list[list[Any]]:
    """Series of the outputs of a program, from whole series of its arguments."""
    tape = Tape(program, [len(series) > 1 for series in given])
    order = max((len(series) for series in given), default=1) - 1
    for k in range(order + 1):
        for cell, series in zip(tape.inputs, given, strict=True):
            cell.set(k, series[k] if k < len(series) else None)
        tape.advance(k)
    return [
        [_zeros(c) if c.at(k) is None else c.at(k) for k in range(order + 1 if c.smooth else 1)]
        for c in tape.outputs
    ]


def _scan(eqn: Any, given: list[Any]) -> list[Any]:
    p = eqn.params
    first, second = p["num_consts"], p["num_consts"] + p["num_carry"]
    fixed, carry, rows = given[:first], given[first:second], given[second:]

    def body(carry: Any, rows: Any) -> Any:
        found = through(p["jaxpr"], [*fixed, *carry, *(rows or [])])
        return found[: p["num_carry"]], found[p["num_carry"] :]

    end, out = jax.lax.scan(body, carry, rows, length=p["length"], reverse=p["reverse"])
    return [*end, *out]


def _while(eqn: Any, given: list[Any]) -> list[Any]:
    p = eqn.params
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    of_test, fixed, carry = given[:first], given[first:second], given[second:]
    test = core.jaxpr_as_fun(p["cond_jaxpr"])
    return jax.lax.while_loop(
        lambda carry: test(*(s[0] for s in [*of_test, *carry]))[0],
        lambda carry: through(p["body_jaxpr"], [*fixed, *carry]),
        carry,
    )


def _cond(eqn: Any, given: list[Any]) -> list[Any]:
    branches = [functools.partial(through, branch) for branch in eqn.params["branches"]]
    return jax.lax.switch(given[0][0], branches, given[1:])


_FLOW: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The primitive's results, always a list."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # JAX < 0.10: a pair
    found = eqn.primitive.bind(*functions, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _put(cells: Sequence[Cell], k: int, values: Sequence[Coefficient]) -> None:
    for cell, value in zip(cells, values, strict=True):
        cell.set(k, value)


def _zeros(cell: Cell) -> jax.Array:
    return jnp.zeros(cell.aval.shape, cell.aval.dtype)


def _fixed(aval: Any, value: Any) -> Cell:
    cell = Cell(aval, constant=True)
    cell.set(0, value)
    return cell


def _needed(program: core.ClosedJaxpr) -> list[Any]:
    """The equations that the outputs depend on."""
    wanted = {v for v in program.jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for eqn in reversed(program.jaxpr.eqns):
        if any(v in wanted for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    return kept[::-1]


@functools.cache
def _power_of(y: int, shape: tuple[int, ...], dtype: Any) -> core.ClosedJaxpr:
    def power(x: Any) -> Any:
        parts, square, left = [], x, y
        while left:
            if left % 2:
                parts.append(square)
            left //= 2
            square = square * square if left else square
        return functools.reduce(operator.mul, parts)

    return jax.make_jaxpr(power)(jax.ShapeDtypeStruct(shape, dtype))


def _power(aval: Any, y: int) -> core.ClosedJaxpr:
    """``x^y`` as products: no logarithm, so that any base will do."""
    return _power_of(y, aval.shape, aval.dtype)


def _key(eqn: Any, given: list[Cell]) -> Any:
    """What two equal operations have in common; None where that cannot be told."""
    cells = []
    for cell in given:
        value = cell.at(0) if cell.constant else None
        scalar = isinstance(value, float | int | np.generic)
        cells.append((str(cell.aval), float(value)) if scalar else id(cell))
    params = tuple(sorted((name, _shown(value)) for name, value in eqn.params.items()))
    if any(shown is None for _, shown in params):
        return None
    return eqn.primitive, params, tuple(cells)


def _shown(value: Any) -> str | None:
    """A parameter in words; None if what it holds does not show."""
    closed = [part for part in jax.tree.leaves(value) if isinstance(part, core.ClosedJaxpr)]
    if any(part.consts for part in closed):
        return None
    return str(value)


def _warn(what: str) -> None:
    warnings.warn(what, stacklevel=2)
