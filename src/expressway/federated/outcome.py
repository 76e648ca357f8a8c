"""What a coordinator has at the end of a run, as it brings it to whoever asked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import anndata
import pandas as pd

from expressway import io
from expressway.io.contrast import ContrastSpec
from expressway.models import shrinkage
from expressway.run import Ledger
from expressway.run.wire import decode, encode

from .analysis import Run
from .tested import lrt, ql, shrink

Test = Literal["wald", "lrt", "ql"]
_SAID = "outcome"


class Wanted(NamedTuple):
    """What is asked beside the fit and its Wald tests, which take no rounds."""

    specs: tuple[ContrastSpec | None, ...]
    """Contrasts; the first one is the analysis' own."""
    test: Test = "wald"
    reduced: str | None = None
    shrink: shrinkage.Kind | None = None


class Table(NamedTuple):
    """Results of one contrast."""

    name: str
    table: pd.DataFrame
    threshold: float
    """Mean of normalised counts below which the independent filter took genes out."""


class Outcome(NamedTuple):
    """Everything that a coordinator may have."""

    adata: anndata.AnnData
    """Genes and no samples, with the fit; `tl.contrast` tests other contrasts."""
    cells: pd.DataFrame
    tables: tuple[Table, ...]
    """One for each contrast, of tests that take rounds; none of Wald's."""
    shrunken: tuple[pd.DataFrame, ...]
    """One for each contrast, if any was asked."""
    ledger: Ledger
    left_out: dict[str, int]
    """Genes of each site that are not among the common ones."""

    @property
    def received(self) -> pd.DataFrame:
        """Every total that came from a site (`run.federation.Left`)."""
        return pd.DataFrame(self.ledger.left)


def outcome(run: Run, wanted: Wanted, clock: io.Clock) -> Outcome:
    """The outcome of an analysis, with what takes more rounds."""
    tests: dict[str, Callable[[ContrastSpec | None], pd.DataFrame]] = {
        "lrt": lambda spec: lrt(run, wanted.reduced, spec),
        "ql": lambda spec: ql(run, wanted.reduced, spec),
    }
    tables, shrunken = [], []
    for spec in wanted.specs if wanted.test in tests else ():
        with clock.stage("tests"):
            table = tests[wanted.test](spec)
        said = run.adata.uns["de"]
        tables.append(Table(str(said["contrast"]), table, float(said["filter_threshold"])))
    for spec in wanted.specs if wanted.shrink else ():
        with clock.stage("shrinkage"):
            shrunken.append(shrink(run, spec, kind=cast("str", wanted.shrink)))
    left_out = dict(run.agreement.left_out)
    return Outcome(run.adata, run.cells, tuple(tables), tuple(shrunken), run.ledger, left_out)


def save(found: Outcome, folder: Path) -> None:
    """Write an outcome into a folder, to be read by `load`; no file of it runs code."""
    folder.mkdir(parents=True, exist_ok=True)
    found.adata.write_h5ad(folder / "fit.h5ad")
    tables = _tables(found)
    for name, table in tables.items():
        kept = table.set_axis(table.index.astype(str))
        anndata.AnnData(obs=kept).write_h5ad(folder / f"{name}.h5ad")
    said = found.ledger.said() | {"left": None, "left_out": found.left_out}
    said |= {"tables": [[one.name, one.threshold] for one in found.tables]}
    said |= {"shrunken": len(found.shrunken)}
    said |= {"axes": {name: one.index.name for name, one in tables.items()}}
    (folder / _SAID).write_bytes(encode(said))


def load(folder: Path) -> Outcome:
    """What `save` wrote.

    Raises
    ------
    InputError
        The folder holds no outcome.
    """
    if not (folder / _SAID).is_file():
        message = f"{folder} holds no outcome of a run"
        raise io.InputError(message)
    said = decode((folder / _SAID).read_bytes())

    def table(name: str) -> pd.DataFrame:
        found = anndata.read_h5ad(folder / f"{name}.h5ad").obs
        return pd.DataFrame(found).rename_axis(said["axes"][name])

    tables = [
        Table(name, table(f"table {k}"), threshold)
        for k, (name, threshold) in enumerate(said["tables"])
    ]
    shrunken = [table(f"shrunken {k}") for k in range(said["shrunken"])]
    ledger = Ledger({}, {}, 0)
    left = [_left(row) for row in table("received").itertuples(index=False)]
    ledger.restore(said | {"left": left})
    adata = anndata.read_h5ad(folder / "fit.h5ad")
    cells = table("cells")
    return Outcome(adata, cells, tuple(tables), tuple(shrunken), ledger, dict(said["left_out"]))


def _tables(found: Outcome) -> dict[str, pd.DataFrame]:
    """Tables by name of file."""
    tables = {f"table {k}": one.table for k, one in enumerate(found.tables)}
    tables |= {f"shrunken {k}": one for k, one in enumerate(found.shrunken)}
    return tables | {"cells": found.cells, "received": found.received}


def _left(row: Sequence[Any]) -> Any:
    from expressway.run.federation import Left

    return Left(*row)
