"""Formulas of others: read without running what they say.

A formula may hold Python, which formulaic evaluates: harmless where whoever runs it has written it,
and not where it came from elsewhere.
"""

import ast

import formulaic
from formulaic.formula import SimpleFormula
from formulaic.parser.types import Factor

from expressway._errors import InputError

_TRANSFORMS = ("log", "log2", "log10", "exp", "exp2", "exp10", "I", "Q", "C")
_CODINGS = ("Treatment", "Sum", "Poly", "Helmert", "Diff")
# Refused across sites for another reason, which is then told: they would be fitted to all samples.
_FITTED = ("bs", "cc", "cr", "cs", "center", "poly", "scale", "standardize")
FUNCTIONS = frozenset((*_TRANSFORMS, *_CODINGS, *_FITTED))
NUMPY = frozenset(["log", "log2", "log10", "log1p", "exp", "sqrt", "square", "abs", "expm1"])
CONTRASTS = frozenset(["treatment", "sum", "poly", "helmert", "diff", "sas", "custom"])
_PARTS = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
    *(ast.BinOp, ast.UnaryOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub),
)


def refuse_code(formula: str) -> None:
    """Refuse a formula that could do anything but transform columns.

    What stays are names of columns, numbers, words, arithmetic and calls of `FUNCTIONS`, of
    ``np.`` `NUMPY` and of ``contr.`` `CONTRASTS`.

    Raises
    ------
    InputError
        There is something else in it, or it cannot be read.
    """
    try:
        parsed = formulaic.Formula.from_spec(formula)
    except Exception as error:
        message = f"formula '{formula}' cannot be read"
        raise InputError(message) from error
    parts = parsed if isinstance(parsed, SimpleFormula) else ()
    for term in parts:
        for factor in term.factors:
            if factor.eval_method is Factor.EvalMethod.PYTHON:
                _refuse(str(factor.expr))


def _refuse(expression: str) -> None:
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = f"the formula's '{expression}' cannot be read; give columns plain names"
        raise InputError(message) from error
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in ast.walk(tree):
        # A coding may be named without being called: C(dose, contr.sum).
        named = isinstance(node, ast.Attribute) and _listed(node)
        named &= node in called or ast.unparse(node).startswith("contr.")
        fine = isinstance(node, _PARTS) or named
        fine &= not isinstance(node, ast.Call) or _listed(node.func)
        if not fine:
            message = (
                f"the formula's '{expression}' is more than a transform of columns; across sites "
                f"there are {', '.join(_TRANSFORMS)}, np.log and the like, and arithmetic"
            )
            raise InputError(message)


def _listed(function: ast.expr) -> bool:
    """Whether a function may be called."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        own = {"np": NUMPY, "contr": CONTRASTS}.get(function.value.id, frozenset())
        return function.attr in own
    return isinstance(function, ast.Name) and function.id in FUNCTIONS
