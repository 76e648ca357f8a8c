"""`expressway de`: from a table of counts to a folder of results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from expressway import io, tl
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.size_factors import Method

from . import folder, show

error_console = Console(stderr=True, highlight=False, soft_wrap=True)


def de(
    counts: Annotated[
        Path,
        typer.Argument(help="Counts: csv or tsv (.gz), Matrix Market or h5ad.", show_default=False),
    ],
    samples: Annotated[
        Path | None,
        typer.Argument(help="Sample table, csv or tsv; an h5ad has its own.", show_default=False),
    ] = None,
    *,
    design: Annotated[str, typer.Option(help="Formula, e.g. '~ cell + dex'.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    contrast: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="FACTOR LEVEL REFERENCE", help="Compare two levels of a factor."),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Another contrast from the same fit: a coefficient's name, "
            "factor,level,reference or one weight a coefficient: 0,1,-1. Repeatable.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="FACTOR=LEVEL", help="Reference level of a factor. Repeatable."),
    ] = None,
    size_factors: Annotated[Method, typer.Option(help="How size factors are made.")] = "ratio",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="False-discovery rate.")] = 0.1,
    prior_variance: Annotated[
        float | None,
        typer.Option(min=0, help="Prior variance of log dispersion, not estimated."),
    ] = None,
    replace: Annotated[bool, typer.Option(help="Replace outlying counts and refit.")] = True,
    filter: Annotated[bool, typer.Option(help="Independent filtering by mean.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier results in the folder.")] = False,
) -> None:
    """Differential expression of counts, with DESeq2's statistics."""
    with one_line_errors():
        io.check_folder(out, overwrite)
        specs = _specs(contrast, test)
        settings = deseq.Settings(
            size_factors=size_factors,
            prior_variance=prior_variance,
            replace_outliers=replace,
            independent_filtering=filter,
            alpha=alpha,
        )
        clock = io.Clock()
        with _progress() as watch:
            watch("reading")
            with clock.stage("reading"):
                adata = io.read_counts(counts, samples)
            levels = dict(map(_level, reference or []))
            tl.de(adata, design, specs[0], reference=levels, settings=settings, watch=watch)
            watch("writing")
            with io.whole_folder(out) as scratch:
                tables = folder.write(adata, specs, scratch, clock)
        show.summary(adata, tables, out)


def _specs(
    contrast: tuple[str, str, str] | None, test: list[str] | None
) -> list[ContrastSpec | None]:
    """All contrasts; None, the last coefficient, if there are none."""
    specs: list[ContrastSpec | None] = [] if contrast is None else [contrast]
    return (specs + [_spec(text) for text in test or []]) or [None]


def _spec(text: str) -> ContrastSpec:
    """A coefficient's name, a (factor, level, reference) or weights."""
    parts = [part.strip() for part in text.split(",")]
    try:
        return [float(part) for part in parts] if len(parts) > 1 else text
    except ValueError:
        pass
    if len(parts) == 3:
        return tuple(parts)
    msg = (
        f"--test {text}: needs a coefficient's name, factor,level,reference "
        "or one number a coefficient"
    )
    raise io.InputError(msg)


def _level(text: str) -> tuple[str, str]:
    factor, equals, level = text.partition("=")
    if not (factor and equals and level):
        msg = f"--reference {text}: needs FACTOR=LEVEL, for example dex=untrt"
        raise io.InputError(msg)
    return factor, level


@contextmanager
def _progress() -> Iterator[deseq.Watch]:
    """A bar over the stages on the terminal."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=error_console, transient=True) as progress:
        task = progress.add_task("reading", total=len(deseq.STAGES) + 4)

        def watch(stage: str) -> None:
            progress.update(task, description=stage, advance=1)

        yield watch


@contextmanager
def one_line_errors() -> Iterator[None]:
    """A user's mistake ends in one line and exit code 2, an interrupt in 130."""
    try:
        yield
    except io.InputError as error:
        error_console.print("error:", str(error), markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        error_console.print("interrupted: nothing was written")
        raise typer.Exit(130) from None
