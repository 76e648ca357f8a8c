"""Design matrices from formulas."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.formula import SimpleFormula
from formulaic.materializers.types import NAAction
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS
from formulaic.utils.variables import Variable, get_required_variables
from scipy import sparse

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.arrow import MANY, Wide, wide

from .factors import as_category, coded_factors, is_number, reference_first

# R's qr, tol: a column is dependent when less than this share of its length is left over
_RANK_TOLERANCE = 1e-7
# A whole-number covariate with at most this many values is more likely a factor
_FEW_VALUES = 12
# DESeq2 R/AllClasses.R, DESeqDataSet: beyond this it asks for centring and scaling
_FAR = 5
_CONTROLS = frozenset(
    ["control", "ctrl", "untreated", "untrt", "mock", "vehicle", "dmso", "wt", "wildtype"]
)


@dataclass(frozen=True)
class Design:
    """The design matrix of a formula and what it takes to code other samples alike.

    Attributes
    ----------
    matrix
        A wide design where many columns are never non-zero together (`core.arrow`).
    names
        One a coefficient, as formulaic writes them: `Intercept`, `dex[T.trt]`.
    spec
        Remembers levels and spline knots: `spec.get_model_matrix` codes the rows of a new table.
    levels
        The levels of each factor, its reference level first.
    warnings
        Doubts about the design, one line each.
    """

    formula: str
    matrix: Float[np.ndarray, "n p"] | Wide
    names: tuple[str, ...]
    spec: formulaic.ModelSpec
    levels: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]


def design(
    formula: str, samples: pd.DataFrame, reference: Mapping[str, str] | None = None
) -> Design:
    """Return the design matrix of a right-hand-side formula over a sample table.

    Text, booleans and categories are factors. Categories keep their order; other levels are
    sorted, as numbers if all are numbers, else alphabetically regardless of case, as R does. The
    first level is the reference.

    Parameters
    ----------
    formula
        In formulaic's grammar: `~ cell + dex`, `~ strain * C(minute)`, `~ 0 + bs(age, df=4)`.
    samples
        One row a sample. Only columns that the formula names are read.
    reference
        Column to the level that is to be the reference instead.

    Raises
    ------
    InputError
        A formula that cannot be read or has a left-hand side; a column or reference level that
        does not exist; a missing value; a factor with one level; no residual degrees of freedom;
        a combination of levels without samples; linearly dependent columns.
    """
    parsed = _parse(formula)
    columns = _columns(parsed, samples)
    _refuse_missing(samples, columns)
    frame, doubts = _factorise(parsed, samples.loc[:, columns], reference or {})
    matrix, spec = _materialise(parsed, frame)
    coded = coded_factors(spec).values()
    for factor in coded:
        if len(factor.levels) == 1:
            message = (
                f"column {factor.column} has only one level, {factor.levels[0]}; a factor needs "
                "two: leave it out of the formula"
            )
            raise InputError(message)
    names = tuple(map(str, spec.column_names))
    _refuse_matrix(formula, matrix, names, frame.index)
    levels = {
        factor.column: (factor.reference, *(x for x in factor.levels if x != factor.reference))
        for factor in coded
    }
    doubts = (*doubts, *_number_doubts(parsed, frame), *_reference_doubts(levels))
    return Design(formula, matrix, names, spec, levels, doubts)


def design_columns(formula: str, samples: pd.DataFrame) -> dict[str, bool]:
    """Return the columns that a formula uses, in its order, and whether each stands inside C().

    Raises
    ------
    InputError
        A formula that cannot be read; a column that is not there or lacks a value.
    """
    parsed = _parse(formula)
    columns = _columns(parsed, samples)
    _refuse_missing(samples, columns)
    coded = _inside_c(parsed)
    return {column: column in coded for column in columns}


def _inside_c(parsed: SimpleFormula) -> set[str]:
    """Return the columns that a formula makes factors with C()."""
    return {
        variable
        for factor in _factors(parsed)
        if factor.eval_method is Factor.EvalMethod.PYTHON and factor.expr.startswith("C(")
        for variable in _python_variables(factor.expr)
    }


def refuse_totals(
    formula: str, crossproduct: Float[np.ndarray, "p p"], names: Sequence[str], count: int
) -> None:
    """Refuse a design by ``X'X`` and the number of samples, as `design` does by its matrix.

    Raises
    ------
    InputError
        No residual degrees of freedom; columns that are zero; linearly dependent columns.
    """
    # A matrix of `count` rows with the same X'X, none of which is a sample's.
    length = np.sqrt(np.diag(crossproduct))
    unit = np.where(length > 0, length, 1.0)
    value, vector = np.linalg.eigh(crossproduct / np.outer(unit, unit))
    root = (vector * np.sqrt(np.maximum(value, 0.0))).T * length
    matrix = np.zeros((count, len(names)))
    matrix[: min(count, len(root))] = root[-count:]
    _refuse_matrix(formula, matrix, names, pd.RangeIndex(count))


def weighted_sum(weights: Iterable[float], names: Iterable[str]) -> str:
    """Return `weights @ names` as one reads it: `a - 0.5 b`."""
    text = ""
    for weight, name in zip(weights, names, strict=True):
        if weight == 0:
            continue
        size = f"{abs(weight):.4g} ".removeprefix("1 ")
        sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
        text += f"{sign}{size}{name}"
    return text


def _parse(formula: str) -> SimpleFormula:
    try:
        parsed = formulaic.Formula.from_spec(formula)
    except FormulaicError as error:
        reason = str(error).partition("\n")[0]
        message = f"formula '{formula}' cannot be read: {reason}"
        raise InputError(message) from error
    if not isinstance(parsed, SimpleFormula):
        message = f"formula '{formula}' must have one part, right of the ~: '~ cell + dex', say"
        raise InputError(message)
    return parsed


def _factors(parsed: SimpleFormula) -> Iterator[Factor]:
    """Yield what the formula multiplies and adds, in its order, each once."""
    yield from dict.fromkeys(factor for term in parsed for factor in term.factors)


def _columns(parsed: SimpleFormula, samples: pd.DataFrame) -> list[str]:
    """Return the columns that the formula uses, in its order."""
    found = []
    for factor in _factors(parsed):
        if factor.eval_method is Factor.EvalMethod.LOOKUP:
            variables = [str(factor.expr)]
        elif factor.eval_method is Factor.EvalMethod.PYTHON:
            # Factor.required_variables knows nothing of what is inside bs(), poly() or scale()
            variables = _python_variables(factor.expr)
        else:
            continue
        for variable in variables:
            if variable not in samples.columns:
                message = (
                    f"the formula names column {variable}, which the sample table does not have; "
                    f"it has {', '.join(map(str, samples.columns))}"
                )
                raise InputError(message)
            found.append(variable)
    return list(dict.fromkeys(found))


def _python_variables(expression: str) -> list[str]:
    """Return the names in a Python expression that are not formulaic's functions."""
    try:
        variables = get_required_variables(expression)
    except SyntaxError as error:
        message = f"the formula's '{expression}' cannot be read: {error.msg}"
        raise InputError(message) from error
    values = (v.root for v in variables if "." in v or Variable.Role.CALLABLE not in v.roles)
    return sorted({str(v) for v in values if v not in TRANSFORMS})


def _refuse_missing(samples: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        missing = samples.index[samples[column].isna()]
        if len(missing):
            message = (
                f"column {column} has no value for sample {missing[0]} ({len(missing)} such); "
                "fill it in, or leave the sample or the column out"
            )
            raise InputError(message)


def _factorise(
    parsed: SimpleFormula, samples: pd.DataFrame, reference: Mapping[str, str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table with its factors as categories, and which of their levels were dropped."""
    unused = reference.keys() - set(samples.columns)
    if unused:
        message = (
            f"a reference level is given for {min(unused)}, which the formula does not use; "
            f"it uses {', '.join(samples.columns)}"
        )
        raise InputError(message)
    bare = {factor.expr for factor in _factors(parsed)}
    frame, doubts = samples.copy(), []
    for column, values in samples.items():
        column = str(column)
        if is_number(values) and column not in reference:
            continue
        if is_number(values) and column in bare:
            message = (
                f"a reference level is given for {column}, a column of numbers; "
                f"write C({column}) in the formula to make it a factor"
            )
            raise InputError(message)
        category, dropped = as_category(values)
        if dropped:
            doubts.append(f"column {column}: levels without a sample dropped: {', '.join(dropped)}")
        if column in reference:
            category = reference_first(category, reference[column])
        frame[column] = category
    return frame, tuple(doubts)


def _materialise(
    parsed: SimpleFormula, frame: pd.DataFrame
) -> tuple[Float[np.ndarray, "n p"] | Wide, formulaic.ModelSpec]:
    """Return the design matrix and its spec; the caller's variables are not in reach."""
    factors = _inside_c(parsed) | {
        str(name) for name, values in frame.items() if isinstance(values.dtype, pd.CategoricalDtype)
    }
    many = any(frame[name].nunique() > MANY for name in factors)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # A value outside C(x, levels=...): formulaic would code it as no level at all
            warnings.simplefilter("error", DataMismatchWarning)
            output = "sparse" if many else "pandas"
            request = formulaic.ModelSpec(parsed, na_action=NAAction.IGNORE, output=output)
            coded = request.get_model_matrix(frame, context={})
    # Contrast coding raises bare ValueErrors
    except (FormulaicError, DataMismatchWarning, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        message = f"the formula cannot be evaluated on the sample table: {reason}"
        raise InputError(message) from error
    spec: Any = coded.model_spec  # pyright: ignore[reportAttributeAccessIssue]
    if many:
        return wide(sparse.csc_matrix(coded, dtype=float)), spec
    return np.asarray(coded, dtype=float), spec


def _refuse_matrix(
    formula: str, matrix: Float[np.ndarray, "n p"] | Wide, names: Sequence[str], samples: pd.Index
) -> None:
    """Refuse a design whose coefficients or whose spread cannot be estimated."""
    n, p = matrix.shape
    # Of a wide design all that can fail: its border, and columns of the run without an entry.
    its_names, zero = names, []
    x = np.asarray(matrix.border if isinstance(matrix, Wide) else matrix)
    if isinstance(matrix, Wide):
        run = names[matrix.span.start : matrix.span.stop]
        its_names = [*names[: matrix.span.start], *names[matrix.span.stop :]]
        some = np.isin(np.arange(len(run)), matrix.level[matrix.value != 0])
        zero = [name for name, there in zip(run, some, strict=True) if not there]
    finite = np.isfinite(x)
    if p == 0:
        message = f"formula '{formula}' has no terms; '~ 1' is the smallest design"
    elif not finite.all():
        row, column = np.argwhere(~finite)[0]
        message = (
            f"design column {its_names[column]} is not a finite number for sample {samples[row]}"
        )
    elif n <= p:
        message = (
            f"formula '{formula}' has {p} coefficients for {n} samples: no replicates are left to "
            "estimate the spread from; leave terms out or add samples"
        )
    elif zero or not x.any(axis=0).all():
        zero += [name for name, column in zip(its_names, x.T, strict=True) if not column.any()]
        message = (
            f"design columns are zero in every sample: {', '.join(zero)}; no sample has that "
            "combination of levels: leave the interaction out, or make one factor of the "
            "combinations there are"
        )
    elif dependent := _dependencies(matrix, names):
        message = (
            f"formula '{formula}' is not of full rank, some effects cannot be told apart: "
            f"{'; '.join(dependent)}; leave one of these terms out"
        )
        if any(name.startswith(("cr(", "cc(")) for name in names):
            message += " (cr and cc need constraints='center' beside an intercept)"
    else:
        return
    raise InputError(message)


def _dependencies(matrix: Float[np.ndarray, "n p"] | Wide, names: Sequence[str]) -> list[str]:
    """Return, for each column that follows from those before it, how it does.

    In a wide design every column of the run comes before the others.
    """
    by_level, run = np.zeros((0, matrix.shape[1])), []
    if isinstance(matrix, Wide):
        span, x = matrix.span, matrix.border
        run, names = names[span.start : span.stop], [*names[: span.start], *names[span.stop :]]
        by_level = np.zeros((span.count, x.shape[1]))
        size = np.bincount(matrix.level, matrix.value**2, span.count)[:, None]
        np.add.at(by_level, matrix.level, matrix.value[:, None] * x / size[matrix.level])
        rest = x - matrix.value[:, None] * by_level[matrix.level]
    else:
        x = rest = matrix
    length = np.linalg.norm(x, axis=0)
    unit, by_level = rest / length, by_level / length
    kept: list[int] = []
    found = []
    for j, name in enumerate(names):
        weights = np.linalg.lstsq(unit[:, kept], unit[:, j])[0]
        if np.linalg.norm(unit[:, j] - unit[:, kept] @ weights) > _RANK_TOLERANCE:
            kept.append(j)
            continue
        level = (by_level[:, j] - by_level[:, kept] @ weights) * length[j]
        level = np.where(np.abs(level) > _RANK_TOLERANCE, level, 0)
        weights = np.where(np.abs(weights) > _RANK_TOLERANCE, weights, 0) * length[j] / length[kept]
        columns = [*(names[k] for k in kept), *run]
        found.append(f"{name} = {weighted_sum([*weights, *level], columns)}")
    return found


def _number_doubts(parsed: SimpleFormula, frame: pd.DataFrame) -> Iterator[str]:
    """Yield what DESeq2 asks about covariates that enter as plain numbers."""
    bare = [factor.expr for factor in _factors(parsed)]
    for column, series in frame.items():
        if column not in bare or not is_number(series):
            continue
        values = series.to_numpy(float)
        few = np.unique(values).size
        if np.all(values == np.floor(values)) and few <= min(_FEW_VALUES, values.size - 1):
            yield (
                f"column {column} enters as a number (a straight line on the log scale) but "
                f"has only {few} values; write C({column}) if it is a factor"
            )
        if abs(values.mean()) > _FAR or values.std(ddof=1) > _FAR:
            yield (
                f"column {column} has mean {values.mean():.4g} and standard deviation "
                f"{values.std(ddof=1):.4g}; centre and scale it: scale({column})"
            )


def _reference_doubts(levels: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield whether the last factor has a control level that is not its reference."""
    for factor, (reference, *others) in list(levels.items())[-1:]:
        control = next((level for level in others if level.lower() in _CONTROLS), None)
        if control is not None and reference.lower() not in _CONTROLS:
            yield (
                f"column {factor}: the reference level is {reference}, not {control}; "
                f"name {control} the reference if fold changes are to be against it"
            )
