"""The folder of results."""

import importlib
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import pandas as pd

from expressway import get, io, tl
from expressway.io.contrast import ContrastSpec
from expressway.models.gene_ranks import Choices
from expressway.models.survival import Kind

FORMATS = ("png", "pdf", "svg")
# Letters of a contrast's name in the names of its files.
_LETTERS = 60


class Tested(NamedTuple):
    """The results of one contrast."""

    name: str
    suffix: str
    """Of its files: empty for the only contrast."""
    table: pd.DataFrame
    threshold: float
    """Mean of normalised counts below which the independent filter took genes out."""
    spec: ContrastSpec | None = None


class Place(NamedTuple):
    """Where files go, and in which form."""

    folder: Path
    clock: io.Clock
    tables: str = "csv"
    """Suffix of the tables' files."""
    formats: Sequence[str] = ("png",)
    """Of the figures: some of `FORMATS`; none are written where there is none."""
    report: bool = False
    """Write report.html too."""

    def write(self, table: pd.DataFrame, stem: str) -> None:
        """Write a table into a file of that name, without suffix."""
        with self.clock.stage("tables"):
            io.write_table(table, self.folder / f"{stem}.{self.tables}")


def expect_figures() -> None:
    """Import what draws figures while functions compile: it takes half a second."""
    threading.Thread(target=lambda: importlib.import_module("expressway.pl"), daemon=True).start()


def tables(
    adata: anndata.AnnData,
    specs: Sequence[ContrastSpec | None],
    clock: io.Clock,
    test: Callable[[ContrastSpec | None], pd.DataFrame] | None = None,
) -> list[Tested]:
    """The results of each contrast once; without a test those of Wald's, of which there is one.

    Parameters
    ----------
    test
        Tests a contrast, and stores the results as `tl.contrast` does.
    """
    found: dict[str, Tested] = {}
    for i, spec in enumerate(specs):
        with clock.stage("tests"):
            if test is not None:
                table = test(spec)
            else:
                table = get.de(adata) if i == 0 else tl.contrast(adata, spec)
        name = str(adata.uns["de"]["contrast"])
        threshold = float(adata.uns["de"]["filter_threshold"])
        found[name] = Tested(name, "", table, threshold, spec)
    if len(found) == 1:
        return list(found.values())
    suffixes = suffixes_of(list(found))
    return [t._replace(suffix=s) for t, s in zip(found.values(), suffixes, strict=True)]


def every(
    adata: anndata.AnnData, each: tuple[str, str] | None, clock: io.Clock, **limit: Any
) -> anndata.AnnData | None:
    """Every level of a factor against one of them, if wanted; limit as of `tl.contrasts`."""
    with clock.stage("tests"):
        return None if each is None else tl.contrasts(adata, *each, **limit)


def influences(
    adata: anndata.AnnData,
    specs: Sequence[ContrastSpec | None],
    tested: Sequence[Tested],
    kind: Kind | None,
    clock: io.Clock,
) -> dict[str, pd.DataFrame]:
    """By name of file: what becomes of each gene's call without any single sample."""
    if kind is None:
        return {}
    suffixes = {one.name: one.suffix for one in tested}
    found = {}
    for spec in specs:
        with clock.stage("influence"):
            moved = tl.influence(adata, spec, kind=kind)
            name = f"influence{suffixes[str(moved.uns['contrast'])]}"
            found[name] = io.survival_table(moved)
    return found


def shrunken(
    tested: Sequence[Tested],
    shrink: Callable[[ContrastSpec | None], pd.DataFrame],
    clock: io.Clock,
) -> dict[str, pd.DataFrame]:
    """By name of file: shrunken fold changes of each contrast."""
    found = {}
    for one in tested:
        with clock.stage("shrinkage"):
            found[f"shrunken{one.suffix}"] = shrink(one.spec)
    return found


def intervals(
    adata: anndata.AnnData,
    tested: Sequence[Tested],
    choices: Choices | None,
    clock: io.Clock,
) -> dict[str, pd.DataFrame]:
    """By suffix of file: intervals of fold changes and of ranks of each contrast."""
    if choices is None:
        return {}
    draws, level, top, by = choices
    found = {}
    for one in tested:
        with clock.stage("intervals"):
            found[one.suffix] = tl.intervals(
                adata, one.spec, interval=level, top=top, by=by, draws=draws
            )
    return found


def write_intervals(
    found: Mapping[str, pd.DataFrame], choices: Choices | None, place: Place
) -> None:
    """Write what `intervals` found, and a figure of each, before `write` lists the files."""
    from expressway import pl

    figures = place.folder / "figures"
    for suffix, table in found.items():
        place.write(table, f"intervals{suffix}")
        with place.clock.stage("figures"):
            level = choices.level if choices else 0.9
            figure = pl.ranks(table, level=level).get_figure(root=True)
            for kind in place.formats:
                figures.mkdir(exist_ok=True)
                if figure is not None:
                    figure.savefig(figures / f"ranks{suffix}.{kind}")


def write_every(found: anndata.AnnData | None, place: Place) -> None:
    """Write many contrasts, before `write` lists the files."""
    if found is None:
        return
    place.write(pd.DataFrame(found.obs), "contrasts")
    with place.clock.stage("tables"):
        found.write_h5ad(place.folder / "contrasts.h5ad")


def write(
    adata: anndata.AnnData,
    tested: Sequence[Tested],
    place: Place,
    inputs: Mapping[str, Any],
    *,
    transformed: tuple[pd.DataFrame, str] | None = None,
) -> None:
    """Write everything into a folder; what the run read, and more to record of it, comes first.

    One contrast is written as ``results.csv``, several as ``results_NAME.csv``; likewise figures.

    Parameters
    ----------
    inputs
        What the run read, and more to record of it.
    transformed
        On which samples are compared: samples × genes, and the scale in words. By default
        log₂ (normalised count + 1).
    """
    folder, clock, _, formats, report = place
    images: dict[str | None, list[io.Image]] = {}
    if formats or report:
        from . import figures  # after the analysis: a refusal need not wait for matplotlib

        scale = None if transformed is None else figures.Transformed(*transformed)
        with clock.stage("figures"):
            images = figures.write(adata, tested, folder / "figures", formats, report, scale)
    for one in tested:
        place.write(one.table, f"results{one.suffix}")
    place.write(get.genes(adata), "genes")
    if adata.n_obs:
        place.write(get.samples(adata), "samples")
    record = _record(adata, tested, place, inputs)
    if report:
        with clock.stage("report"):
            io.write_report(folder / "report.html", _report(record, tested, images))
        record["seconds"] = seconds(clock.seconds, adata.uns["de"]["seconds"])
    names = [
        str(path.relative_to(folder).as_posix()) for path in folder.rglob("*.*") if path.is_file()
    ]
    record["files"] = sorted([*names, "run.json"])
    io.write_json(record, folder / "run.json")


def tested_how(stored: Mapping[str, Any]) -> str:
    """What was tested, in words."""
    kind, limit = stored["test"]["kind"], float(stored["lfc_threshold"])
    if kind != "wald":
        name = {"lrt": "likelihood ratio", "ql": "quasi-likelihood F"}[kind]
        reduced = stored["test"]["reduced"]
        return name + (f" against {reduced}" if reduced else "")
    claims = {
        "greaterAbs": f"|log2 fold change| > {limit:g}",
        "greaterAbs2014": f"|log2 fold change| > {limit:g} (2014)",
        "lessAbs": f"|log2 fold change| < {limit:g}",
        "greater": f"log2 fold change > {limit:g}",
        "less": f"log2 fold change < {0 - limit:g}",
    }
    plain = limit == 0 and stored["alternative"].startswith("greaterAbs")
    return "Wald" if plain else claims[stored["alternative"]]


def parse_formats(text: str) -> list[str]:
    """Formats of figures from a text such as "png,pdf".

    Raises
    ------
    InputError
        One is not of `FORMATS`.
    """
    found = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    if unknown := [kind for kind in found if kind not in FORMATS]:
        msg = f"--figures {text}: {unknown[0]} is none of {', '.join(FORMATS)}"
        raise io.InputError(msg)
    return found


def _report(
    record: Mapping[str, Any],
    tested: Sequence[Tested],
    images: Mapping[str | None, list[io.Image]],
) -> io.Report:
    """What the report says of what the record has."""
    design = record["design"]
    first = {
        "Design": design["formula"],
        "Contrasts" if len(tested) > 1 else "Contrast": ", ".join(one.name for one in tested),
        "Test": tested_how(record["tested"]),
        "Samples": f"{record['samples']:,}",
        "Genes": f"{record['genes']:,}",
        "False-discovery rate": f"{record['settings']['alpha']:g}",
        "Finished": str(record["finished"]).replace("T", " ").replace("+00:00", " UTC"),
    }
    names = ("trend", "prior_variance", "linear_means", "cooks_cutoff")
    told = {*first, "finished", "versions", "samples", "genes", "design", "contrasts", "settings"}
    told |= {*names, "tested", "warnings", "seconds"}
    return io.Report(
        title="Differential expression: " + ", ".join(one.name for one in tested[:3]),
        facts=first,
        parts=[
            io.Part(one.name, one.table, images.get(one.suffix, []), one.threshold)
            for one in tested
        ],
        alpha=float(record["settings"]["alpha"]),
        figures=images.get(None, []),
        warnings=list(record["warnings"]),
        details={
            "Settings": record["settings"],
            "Design": {k: v for k, v in design.items() if k != "formula"},
            "Estimated from all genes": {name: record[name] for name in names},
            "Run": {name: value for name, value in record.items() if name not in told},
            "Versions": record["versions"],
        },
        seconds=record["seconds"],
    )


def suffixes_of(names: Sequence[str]) -> list[str]:
    """``_NAME`` of each contrast in letters that files can have, no two alike."""
    found: list[str] = []
    for name in names:
        words = re.sub(r"\W+", "_", name).strip("_")[:_LETTERS]
        taken = sum(bool(re.fullmatch(rf"_{words}(_\d+)?", other, re.I)) for other in found)
        found.append(f"_{words}_{taken + 1}" if taken else f"_{words}")
    return found


def _record(
    adata: anndata.AnnData, tested: Sequence[Tested], place: Place, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings, versions, what was estimated from all genes, and what it cost."""
    stored = adata.uns["de"]
    memory = io.peak_memory()
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": io.versions(),
        **inputs,
        "samples": stored["samples"],
        "genes": adata.n_vars,
        "design": {
            "formula": stored["design"],
            "coefficients": stored["coefficients"],
            "levels": stored["levels"],
        },
        "contrasts": {
            one.name: {
                "results": f"results{one.suffix}.{place.tables}",
                "filter_threshold": one.threshold,
                "status": one.table["status"].value_counts(sort=False).to_dict(),
            }
            for one in tested
        },
        "settings": recorded(stored["settings"]),
        "trend": stored["trend"],
        "prior_variance": stored["prior_variance"],
        "linear_means": stored["linear_means"],
        "cooks_cutoff": stored["cooks_cutoff"],
        "tested": {name: stored[name] for name in ("test", "lfc_threshold", "alternative")},
        "warnings": stored["warnings"],
        "seconds": seconds(place.clock.seconds, stored["seconds"]),
        "peak_memory_mb": None if memory is None else round(memory, 1),
    }


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as json has them: null where nothing was chosen, "inf" for never an outlier."""
    chosen = {k: None if v == "" else v for k, v in settings.items()}
    return {k: "inf" if v == math.inf else v for k, v in chosen.items()}


def seconds(outer: dict, inner: dict) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of each stage, in the order of the stages, and their sum."""
    order = dict.fromkeys(["reading", *inner, *outer])
    parts: dict[str, dict[str, float]] = {
        stage: {
            kind: sum((of[stage][kind] for of in (outer, inner) if stage in of), 0.0)
            for kind in ("wall", "cpu")
        }
        for stage in order
    }
    total = {kind: sum(part[kind] for part in parts.values()) for kind in ("wall", "cpu")}
    return {
        stage: {kind: round(value, 3) for kind, value in part.items()}
        for stage, part in (parts | {"total": total}).items()
    }
