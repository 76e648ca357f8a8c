"""Any test of the analysis that `de` stored."""

from typing import Literal, get_args

import anndata
import pandas as pd

from expressway import io
from expressway.io.contrast import ContrastSpec

from .contrasts import contrast as wald
from .nested import lrt, ql

Kind = Literal["wald", "lrt", "ql"]
DEFAULTS = {"kind": "wald", "reduced": None, "lfc_threshold": 0.0, "alternative": "greaterAbs"}


def test(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    kind: str = "wald",
    reduced: str | None = None,
    lfc_threshold: float | int = 0.0,
    alternative: str = "greaterAbs",
    key: str = "de",
) -> pd.DataFrame:
    """Table of a test of the analysis that `de` stored: `contrast`, `lrt` or `ql`.

    Parameters
    ----------
    adata, contrast, key
        As for `contrast`.
    kind
        ``"wald"``, ``"lrt"`` (likelihood ratio) or ``"ql"`` (quasi-likelihood F).
    reduced
        For the latter two: the design without what is tested; the contrast is when not given.
    lfc_threshold, alternative
        For Wald's test.

    Raises
    ------
    io.InputError
        The choices do not go together, or what the test itself refuses.
    """
    check_test(kind, reduced, lfc_threshold, alternative)
    if kind == "wald":
        limit = {"lfc_threshold": lfc_threshold, "alternative": alternative}
        return wald(adata, contrast, key=key, **limit)
    nested = {"lrt": lrt, "ql": ql}[kind]
    return nested(adata, reduced, contrast, key=key)


def check_test(
    kind: str, reduced: str | None, lfc_threshold: float | int, alternative: str
) -> None:
    """Refuse choices that do not go together.

    Raises
    ------
    InputError
        A reduced design with Wald's test, a threshold with another, or a test of no known kind.
    """
    if kind not in get_args(Kind):
        msg = f"test must be one of {', '.join(get_args(Kind))}, but is {kind}"
    elif kind == "wald" and reduced is not None:
        msg = (
            f"the reduced design {reduced!r} goes with the tests lrt and ql (--test lrt); Wald's "
            "test is of a contrast"
        )
    elif kind != "wald" and (lfc_threshold or alternative != "greaterAbs"):
        msg = f"a threshold of fold changes goes with Wald's test, not with {kind}; leave it out"
    else:
        return
    raise io.InputError(msg)
