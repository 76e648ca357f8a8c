"""Tables inside R's data files (RData, rda), whatever object they are part of.

An expression set, a SummarizedExperiment, a data frame: each holds a matrix, names of its rows and
columns, and columns of a sample table, in slots that changed with the years. So what is looked for
is a matrix with the right number of columns, and a table with the wanted ones; whether they are
the right ones, the SHA-256 of their content says (`datasets.public`).
"""

import importlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expressway._errors import InputError


class Found(NamedTuple):
    """A matrix, and what is said of its rows and columns."""

    values: np.ndarray
    """By sample, then by gene."""
    genes: list[str]
    obs: pd.DataFrame


def read(content: bytes, samples: int, columns: Sequence[str], what: str) -> Found:
    """The first matrix of a file with so many columns, as samples × genes, and a sample table.

    Parameters
    ----------
    content
        Of the file.
    samples
        How many there are.
    columns
        Of the sample table.
    what
        What messages call the file.

    Raises
    ------
    InputError
        The package rdata is missing, the file is none of R's, or there is no such matrix in it.
    """
    objects = list(_walk(_parse(content, what)))
    obs = next(
        (t for t in (_table(one, samples, columns) for one in objects) if t is not None), None
    )
    for one in objects:
        found = _matrix(one, samples)
        if found is None or obs is None:
            continue
        values, genes, names = found
        genes = genes or _names(objects, values.shape[1])
        if genes is None:
            continue
        return Found(values, genes, obs if names is None else obs.set_index(pd.Index(names)))
    msg = f"{what} holds no matrix of {samples} samples with a table of {', '.join(columns)}"
    raise InputError(msg)


def _parse(content: bytes, what: str) -> Any:
    try:
        parser = importlib.import_module("rdata.parser")
    except ImportError:
        install = 'pip install "expressway[datasets]"'
        msg = f"{what} is a file of R, which needs the package rdata: {install}"
        raise InputError(msg) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of files
            return parser.parse_data(content).object
    except (ValueError, NotImplementedError, EOFError, OSError, IndexError) as error:
        msg = f"{what} cannot be read as a file of R: {' '.join(str(error).split())}"
        raise InputError(msg) from error


def _walk(root: Any) -> Iterator[Any]:
    """Every object below one, once: elements, attributes, the members of environments."""
    stack, seen = [root], set()
    while stack:
        found = stack.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        value = found.value
        below = [found.attributes, found.referenced_object]
        if isinstance(value, list | tuple):
            below += value
        elif type(value).__name__ == "EnvironmentValue":  # what is around it is R's own
            below += [value.frame, value.hash_table]
        stack += [part for part in reversed(below) if type(part).__name__ == "RObject"]


def _attributes(found: Any) -> dict[str, Any]:
    """Attributes of an object, and its slots: R keeps them as a chain of pairs."""
    pairs, link = {}, found.attributes
    while link is not None and isinstance(link.value, tuple):
        pairs[_tag(link)], link = link.value
    return pairs


def _tag(link: Any) -> str:
    """Name of a pair: a symbol, or a reference to one."""
    tag = link.tag
    while tag is not None and not isinstance(tag.value, bytes):
        tag = tag.referenced_object if tag.value is None else tag.value
    return "" if tag is None else tag.value.decode()


def _texts(found: Any) -> list[str] | None:
    """A vector of texts; None of another object."""
    if found is None or found.info.type.name != "STR" or any(c.value is None for c in found.value):
        return None
    return [one.value.decode() for one in found.value]


def _column(found: Any) -> list[Any] | None:
    """A vector as a column has it, a factor as its levels; None of another object."""
    if isinstance(found.value, np.ndarray) and found.value.ndim == 1:
        levels = _texts(_attributes(found).get("levels"))
        values = found.value.tolist()
        return values if levels is None else [levels[code - 1] for code in values]
    return _texts(found)


def _table(found: Any, samples: int, columns: Sequence[str]) -> pd.DataFrame | None:
    """A sample table: a data frame of R, or one of Bioconductor, whose columns are in a slot."""
    slots = _attributes(found)
    inner = slots.get("listData", found)
    names = _texts(_attributes(inner).get("names"))
    if inner.info.type.name != "VEC" or names is None or not set(columns) <= set(names):
        return None
    own = {name: _column(inner.value[names.index(name)]) for name in columns}
    if any(column is None or len(column) != samples for column in own.values()):
        return None
    index = _texts(slots.get("rownames")) or _texts(slots.get("row.names"))
    return pd.DataFrame(own, index=pd.Index(index) if index else None)


def _matrix(
    found: Any, samples: int
) -> tuple[np.ndarray, list[str] | None, list[str] | None] | None:
    """Values (samples × genes), names of genes and of samples, of a matrix or a data frame."""
    slots = _attributes(found)
    if "dim" in slots and isinstance(found.value, np.ndarray):
        shape = slots["dim"].value.tolist()
        if len(shape) != 2 or shape[1] != samples or found.value.dtype.kind not in "if":
            return None
        named = slots.get("dimnames")
        names = [None, None] if named is None else [_texts(axis) for axis in named.value]
        return np.asarray(found.value).reshape(shape, order="F").T, names[0], names[1]
    rows = _texts(slots.get("row.names"))
    if found.info.type.name != "VEC" or rows is None or len(found.value) != samples:
        return None
    columns = [one.value for one in found.value]
    if not all(isinstance(one, np.ndarray) and one.dtype.kind in "if" for one in columns):
        return None
    return np.stack(columns), rows, _texts(slots.get("names"))


def _names(objects: Sequence[Any], number: int) -> list[str] | None:
    """So many different texts."""
    for one in objects:
        if isinstance(one.value, list) and len(one.value) == number:
            texts = _texts(one)
            if texts is not None and len(set(texts)) == number:
                return texts
    return None
