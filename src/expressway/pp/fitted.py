"""A transformation fitted to some samples, to apply to others."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, io
from expressway._types import Float
from expressway.core.cohort import Pooled, samples
from expressway.io.check import some
from expressway.models import transforms, trend
from expressway.models.rlog import Rlog
from expressway.models.vst import Vst

Kind = Literal["vst", "rlog", "normalised", "log"]
# Names of genes that a message lists.
_LISTED = 5


class Transform(NamedTuple):
    """A transformation of counts: immutable, picklable, without the counts it was fitted to."""

    kind: Kind
    genes: tuple[str, ...]
    log_reference: Float[np.ndarray, "g"]
    """Log geometric mean of each gene that gives size factors; -inf of others."""
    of: Vst | Rlog | None
    design: str | None
    """None: blind."""

    def apply(
        self, adata: anndata.AnnData, *, to: str | None = None, layer: str | None = None
    ) -> Float[np.ndarray, "n g"]:
        """The transformed counts of other samples, put into a layer too.

        Size factors come of the geometric means of the samples it was fitted to, so that a
        sample's values do not depend on those beside it; the function, and rlog's intercepts,
        dispersions and prior, are kept.

        Parameters
        ----------
        adata
            Samples × genes, raw counts. Genes are matched by name, in any order.
        to
            Layer for the result, dense doubles; by default the transformation's kind.
        layer
            Layer that holds the counts instead of ``X``.

        Raises
        ------
        InputError
            Genes are missing, or for rlog too many; counts cannot be used; or a sample has none
            in the genes that give size factors.
        """
        place = self._places(adata.var_names)
        counts = _rows.counts(adata, layer)
        reference = np.full(adata.n_vars, -np.inf)
        reference[place] = self.log_reference
        bare = Pooled(samples(counts, np.ones((adata.n_obs, 1))))
        cohort = transforms.sized_by(bare, reference)
        if isinstance(self.of, Rlog):
            intercept, alpha = np.full((2, adata.n_vars), -np.inf)
            intercept[place], alpha[place] = self.of.intercept, self.of.alpha
            of = Rlog(intercept, alpha, self.of.prior_variance)
            value = transforms.apply_rlog(of, cohort)
        else:
            value = self.values(cohort)
        adata.layers[to or self.kind] = value
        return value

    def values(self, cohort: Pooled) -> Float[np.ndarray, "n g"]:
        """Values of rows that have their size factors; not of rlog, which is fitted to them."""
        fn = transforms.logarithms if self.kind == "log" else transforms.counts
        if isinstance(self.of, Vst):
            fn = partial(transforms.stabilise, self.of)
        return cohort.collect(fn).value.T

    def _places(self, names: pd.Index) -> np.ndarray:
        """Where each gene is among others."""
        if not names.is_unique:
            msg = f"gene {names[names.duplicated()][0]} occurs twice; genes are matched by name"
            raise io.InputError(msg)
        place = names.get_indexer(pd.Index(self.genes))
        missing = pd.Index(self.genes)[place < 0]
        if len(missing):
            msg = (
                f"{len(missing)} of {len(self.genes)} genes that the {self.kind} was fitted to are "
                f"missing: {some(missing, _LISTED)}; give the same genes"
            )
            raise io.InputError(msg)
        if isinstance(self.of, Rlog) and len(names) > len(place):
            more = names.difference(pd.Index(self.genes))
            msg = (
                f"the rlog was not fitted to {len(more)} of these genes: {some(more, _LISTED)}; "
                "take adata[:, list(fitted.genes)]"
            )
            raise io.InputError(msg)
        return place

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists of what it is; None where a number is not finite."""
        return {
            "transform": self.kind,
            "design": self.design,
            "genes": list(self.genes),
            "log_reference": _plain(self.log_reference),
            "of": None if self.of is None else _plain(self.of._asdict()),
        }

    def save(self, path: str | Path) -> None:
        """Write it as JSON, every digit kept; `load_transform` reads it."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)


def load_transform(path: str | Path) -> Transform:
    """The transformation that `Transform.save` wrote.

    Raises
    ------
    InputError
        The file is none of these.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        of = found["of"]
        if found["transform"] == "vst":
            of = Vst(**of | {"trend": trend.stored(_numbers(of["trend"]))})
        elif found["transform"] == "rlog":
            alpha = _array(of["alpha"], np.nan)
            of = Rlog(_array(of["intercept"], -np.inf), alpha, float(of["prior_variance"]))
        reference = _array(found["log_reference"], -np.inf)
        return Transform(found["transform"], tuple(found["genes"]), reference, of, found["design"])
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise io.InputError(msg) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} holds no fitted transformation ({' '.join(str(error).split())})"
        raise io.InputError(msg) from None


def _array(values: list[float | None], missing: float) -> Float[np.ndarray, "k"]:
    return np.array([missing if value is None else value for value in values], float)


def _numbers(parts: dict[str, Any]) -> dict[str, Any]:
    """The same with NaN for None."""
    return {name: np.nan if value is None else value for name, value in parts.items()}


def _plain(value: Any) -> Any:
    """The same in what JSON knows."""
    if isinstance(value, trend.Trend):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return [x if np.isfinite(x) else None for x in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value
