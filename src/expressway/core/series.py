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
from typing import Any

import jax
import numpy as np
from jax.extend import core

from .nodes import Cell, Node, bilinear, bind, constant, fixed, linear, quotient, solve, zeros

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
        "rsqrt", "sign", "sin", "sinh", "sort", "sqrt", "square", "svd", "tan",
        "tanh", "triangular_solve",
    ]
)  # fmt: skip


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
        self._nodes: list[Node] = []
        self.outputs = builder.inline(program, self.inputs, self._nodes, 0)

    def advance(self, k: int) -> None:
        """Find coefficient k of everything."""
        for node in self._nodes:
            node.advance(k)


class _Builder:
    """Nodes of a program, each made once for the same operation on the same cells."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Node, list[Cell]]] = {}

    def inline(
        self, program: core.ClosedJaxpr, inputs: Sequence[Cell], nodes: list[Node], level: int
    ) -> list[Cell]:
        """Cells of the outputs; the nodes that are needed are added to a list."""
        cells: dict[Any, Cell] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        for var, value in zip(program.jaxpr.constvars, program.consts, strict=True):
            cells[var] = fixed(var.aval, value)

        def cell(atom: Any) -> Cell:
            return fixed(atom.aval, atom.val) if isinstance(atom, core.Literal) else cells[atom]

        for eqn in _needed(program):
            given = [cell(atom) for atom in eqn.invars]
            for var, out in zip(eqn.outvars, self._apply(eqn, given, nodes, level), strict=True):
                cells[var] = out
        return [cell(atom) for atom in program.jaxpr.outvars]

    def _apply(self, eqn: Any, given: list[Cell], nodes: list[Node], level: int) -> list[Cell]:
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

    def _node(self, eqn: Any, given: list[Cell], outs: list[Cell], level: int) -> "Node":
        name = eqn.primitive.name
        node = Node(eqn, given, outs, level)
        if all(out.constant for out in outs):
            node.rule = constant
        elif name in LINEAR:
            node.rule = linear
        elif name in BILINEAR:
            node.rule = bilinear
        elif name == "div":
            node.rule = quotient
        elif name == "custom_linear_solve":
            count = eqn.params["const_lengths"].matvec
            matvec = eqn.params["jaxprs"].matvec
            node.inner = self.inline(matvec, [*given[:count], *outs], node.nodes, level)
            node.rule = solve
        elif name in _FLOW:
            node.rule = _flow
        else:
            if name not in TESTED:
                _warn(f"{name} has no Taylor rule of its own: differentiated by its JVP, slowly")
            node.rule = functools.partial(_smooth, self)
        return node


def _smooth(builder: _Builder, node: Node, k: int) -> None:
    """``k y_k`` is coefficient k - 1 of ``df(x)[x']``, df the primitive's own JVP rule."""
    if node.inner is None:
        node.inner = _derived(builder, node)
    node.deeper(k - 1)
    smooth = [out for out in node.outs if out.smooth]
    for out, primed in zip(smooth, node.inner, strict=True):
        value = primed.at(k - 1)
        out.set(k, None if value is None else value / k)


def _derived(builder: _Builder, node: Node) -> list[Cell]:
    """Cells of the derivatives of a node's smooth outputs."""
    given, eqn = node.given, node.eqn
    free = [i for i, c in enumerate(given) if c.smooth and not c.constant]

    def derivative(values: list[Any], moves: list[Any]) -> list[Any]:
        def of_free(*some: Any) -> list[Any]:
            full = list(values)
            for i, value in zip(free, some, strict=True):
                full[i] = value
            found = bind(eqn, full)
            return [y for y, out in zip(found, node.outs, strict=True) if out.smooth]

        return jax.jvp(of_free, [values[i] for i in free], moves)[1]

    shapes = [jax.ShapeDtypeStruct(c.aval.shape, c.aval.dtype) for c in given]
    try:
        program = jax.make_jaxpr(derivative)(shapes, [shapes[i] for i in free])
    except (NotImplementedError, TypeError, ValueError) as error:
        msg = f"{eqn.primitive.name} has no derivative: {str(error).splitlines()[0]}"
        raise TypeError(msg) from error
    inputs = [*given, *(given[i].primed for i in free)]
    return builder.inline(program, inputs, node.nodes, node.level + 1)


def _flow(node: Node, k: int) -> None:
    """A loop or branch: coefficients up to order k go through it together."""
    given = [
        [zeros(c) if c.at(j) is None else c.at(j) for j in range(k + 1 if c.smooth else 1)]
        for c in node.given
    ]
    found = _FLOW[node.eqn.primitive.name](node.eqn, given)
    node.put(k, [series[k] if len(series) > k else None for series in found])


def through(program: core.ClosedJaxpr, given: Sequence[list[Any]]) -> list[list[Any]]:
    """Series of the outputs of a program, from whole series of its arguments."""
    tape = Tape(program, [len(series) > 1 for series in given])
    order = max((len(series) for series in given), default=1) - 1
    for k in range(order + 1):
        for cell, series in zip(tape.inputs, given, strict=True):
            cell.set(k, series[k] if k < len(series) else None)
        tape.advance(k)
    return [
        [zeros(c) if c.at(k) is None else c.at(k) for k in range(order + 1 if c.smooth else 1)]
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
