"""`expressway de`, step by step: read, fit, test, write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import anndata
import pandas as pd

from expressway import io, tl
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.gene_ranks import Choices
from expressway.models.trend import Kind as Trend
from expressway.models.wald import threshold
from expressway.tl.tested import check_test

from . import asked, brought, each_folder, ends, folder, show

# Seconds of a large table.
_STAGES = {
    "reading": 4.0,
    "design": 0.5,
    "counts": 1.0,
    **dict.fromkeys(deseq.STAGES, 2.0),
    "means": 6.0,
    "gene-wise dispersions": 12.0,
    "MAP dispersions": 5.0,
    "coefficients": 5.0,
    "refit": 2.0,
    "tests": 1.0,
    "shrinkage": 3.0,
    "influence": 5.0,
    "writing": 5.0,
}


class Plan(NamedTuple):
    """What is asked of a run, section by section of the options."""

    counts: Path
    samples: Path | None
    design: str
    contrasts: asked.Contrasts
    tests: asked.Tests
    rests: asked.Rests
    settings: deseq.Settings
    brought: asked.Brought
    output: asked.Output


class _Meant(NamedTuple):
    """What the texts of a plan mean."""

    specs: list[ContrastSpec | None]
    levels: dict[str, str]
    ranking: Choices | None
    formats: list[str]
    settings: deseq.Settings
    trend: pd.DataFrame | None
    inputs: io.Inputs


class _Found(NamedTuple):
    """What a run found."""

    tested: list[folder.Tested]
    every: anndata.AnnData | None
    tables: dict[str, pd.DataFrame]
    """By name of file: shrunken fold changes, influences."""
    ranked: dict[str, pd.DataFrame]
    """By suffix of file."""


def run(plan: Plan) -> None:
    """Do it, or end in one line."""
    clock, output = io.Clock(), plan.output
    with ends.interruptible() as check, ends.one_line_errors(), ends.shown_warnings():
        io.check_folder(output.out, output.overwrite)
        io.check_table_path(output.out / f"results.{output.tables}")
        meant = _meant(plan)
        with ends.progress(_stages(plan), check, quiet=output.quiet) as progress:
            progress.watch("reading")
            with clock.stage("reading"):
                adata = _read(plan, meant)
            folder.expect_figures()
            if output.within is not None:
                return _within(plan, meant, adata, clock, progress)
            found = _found(plan, meant, adata, clock, progress)
            progress.watch("writing")
            with io.written_folder(output.out) as scratch:
                _write(plan, meant, adata, found, scratch, clock)
                check()
    show.excess(output.memory)
    if not output.quiet:
        show.summary(adata, found.tested, plan.counts.name, output.out)
        show.survival(
            {f"{k}.{output.tables}": v for k, v in found.tables.items() if k.startswith("influ")}
        )
        ranked = {f"intervals{k}.{output.tables}": v for k, v in found.ranked.items()}
        show.ranked(ranked, meant.ranking.top if meant.ranking else 0)
    return None


def _stages(plan: Plan) -> dict[str, float]:
    left = {"influence": plan.rests.influence, "shrinkage": plan.tests.shrink}
    return {name: share for name, share in _STAGES.items() if left.get(name, True) is not None}


def _meant(plan: Plan) -> _Meant:
    """What the texts mean: a mistake in one of them is found before anything is read."""
    check_test(*plan.tests[:4])
    threshold(plan.tests.lfc_threshold, plan.tests.alternative)
    _check_wald(plan)
    asked.check_within(plan.output, plan.contrasts, plan.tests, plan.rests)
    kind, own = asked.trend(plan.brought.trend)
    inputs = brought.named(plan.brought)
    settings = plan.settings._replace(trend=cast("Trend", kind))
    io.chosen(settings, inputs)
    return _Meant(
        specs=asked.specs(plan.contrasts),
        levels=asked.levels(plan.contrasts),
        ranking=asked.ranking(plan.rests),
        formats=folder.parse_formats(plan.output.figures),
        settings=settings,
        trend=own,
        inputs=inputs,
    )


def _check_wald(plan: Plan) -> None:
    """Refuse another test beside what is of Wald's alone.

    Raises
    ------
    InputError
        ``--influence`` comes with another test than Wald's of no change, ``--each`` with another
        than Wald's.
    """
    kind, _, limit, alternative, _ = plan.tests
    other = f"--test {kind}" if kind != "wald" else None
    if kind == "wald" and (limit or not alternative.startswith("greaterAbs")):
        other = f"--lfc-threshold {limit:g}" if limit else f"--alternative {alternative}"
    if plan.rests.influence is not None and other is not None:
        msg = (
            f"--influence {plan.rests.influence} is about calls of Wald's test of no change, not "
            f"of {other}; leave one of the two out"
        )
    elif plan.contrasts.each is not None and kind != "wald":
        msg = (
            f"--each {' '.join(plan.contrasts.each)} is by Wald's test, not by {other}; leave one "
            "of the two out, or name each contrast with --also"
        )
    else:
        return
    raise io.InputError(msg)


def _read(plan: Plan, meant: _Meant) -> anndata.AnnData:
    """The counts and what else is brought; the sample table is looked at first."""

    def check(adata: anndata.AnnData) -> None:
        if plan.output.within is None:
            each, levels = plan.contrasts.each, meant.levels
            tl.check(
                adata,
                plan.design,
                meant.specs,
                each=each,
                reduced=plan.tests.reduced,
                reference=levels,
                settings=meant.settings,
            )

    if plan.samples is not None and not io.has_samples(plan.counts):
        check(anndata.AnnData(obs=io.read_samples(plan.samples)))
    adata = io.read_counts(plan.counts, plan.samples, backed=True)
    check(adata)
    brought.bring(adata, plan.brought)
    return adata


def _found(
    plan: Plan, meant: _Meant, adata: anndata.AnnData, clock: io.Clock, progress: ends.Shown
) -> _Found:
    """The fit, and all that is asked of it."""
    tl.de(
        adata,
        plan.design,
        meant.specs[0],
        reference=meant.levels,
        inputs=meant.inputs,
        settings=meant.settings,
        trend=meant.trend,
        memory=plan.output.memory,
        watch=progress.watch,
        tell=progress.tell,
    )
    tested = folder.tables(adata, meant.specs, clock, _test(plan.tests, adata))
    limit, alternative = plan.tests[2:4]
    every = folder.every(
        adata, plan.contrasts.each, clock, lfc_threshold=limit, alternative=alternative
    )
    kind, tables = plan.tests.shrink, {}
    if kind is not None:
        progress.watch("shrinkage")
        tables |= folder.shrunken(tested, lambda spec: tl.shrink(adata, spec, kind=kind), clock)
    if plan.rests.influence is not None:
        progress.watch("influence")
    tables |= folder.influences(adata, meant.specs, tested, plan.rests.influence, clock)
    return _Found(tested, every, tables, folder.intervals(adata, tested, meant.ranking, clock))


def _test(
    tests: asked.Tests, adata: anndata.AnnData
) -> Callable[[ContrastSpec | None], pd.DataFrame] | None:
    """What tests a contrast; None where `tl.de` has done so."""
    if tests.kind == "wald" and not tests.lfc_threshold and tests.alternative == "greaterAbs":
        return None
    return lambda spec: tl.test(adata, spec, **_how(tests))


def _place(plan: Plan, meant: _Meant, scratch: Path, clock: io.Clock) -> folder.Place:
    return folder.Place(scratch, clock, plan.output.tables, meant.formats, plan.output.report)


def _record(plan: Plan) -> dict[str, Any]:
    """What is recorded of the options."""
    files = {"counts": str(plan.counts), "samples": plan.samples and str(plan.samples)}
    return {"input": files | asked.given(plan.brought), "test": plan.tests._asdict()}


def _write(
    plan: Plan,
    meant: _Meant,
    adata: anndata.AnnData,
    found: _Found,
    scratch: Path,
    clock: io.Clock,
) -> None:
    """Write everything, the record of the files last."""
    place = _place(plan, meant, scratch, clock)
    folder.write_every(found.every, place)
    for name, table in found.tables.items():
        place.write(table, name)
    folder.write_intervals(found.ranked, meant.ranking, place)
    folder.write(adata, found.tested, place, _record(plan))


def _within(
    plan: Plan, meant: _Meant, adata: anndata.AnnData, clock: io.Clock, progress: ends.Shown
) -> None:
    """An analysis for each value of a column."""
    output = plan.output
    with clock.stage("analyses"):
        found = tl.de_each(
            adata,
            str(output.within),
            plan.design,
            meant.specs[0],
            reference=meant.levels,
            inputs=meant.inputs,
            settings=meant.settings,
            trend=meant.trend,
            memory=output.memory,
            watch=progress.watch,
            tell=progress.tell,
            test=_how(plan.tests),
        )
    progress.watch("writing")
    with io.written_folder(output.out) as scratch:
        each_folder.write_each(adata, found, _place(plan, meant, scratch, clock), _record(plan))
    show.excess(output.memory)
    if not output.quiet:
        each_folder.show_each(found, plan.counts.name, output.out)


def _how(tests: asked.Tests) -> dict[str, Any]:
    """The test, as `tl.test` is told of it."""
    return {
        "kind": tests.kind,
        "reduced": tests.reduced,
        "lfc_threshold": tests.lfc_threshold,
        "alternative": tests.alternative,
    }
