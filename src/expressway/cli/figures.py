"""The figures of an analysis and what each of them says in a sentence."""

import io as streams
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from expressway import get, io, pl, tl

from .folder import Tested

# Beyond, a sample is a line in a figure of samples, and a table of all counts large.
MOST_SAMPLES = 200
_GENES, _PANELS = 30, 6
_WIDE = 6.0  # inches


class Drawn(NamedTuple):
    """A figure, and how it is told of."""

    name: str
    """Of its file."""
    title: str
    caption: str
    figure: Figure
    contrast: str | None = None
    """The suffix of the contrast that it shows; None where it is of the whole analysis."""


class Transformed(NamedTuple):
    """Counts on a scale on which samples can be compared."""

    table: pd.DataFrame
    """Samples x genes."""
    scale: str
    """In words: "log₂ (normalised count + 1)"."""


class _Samples(NamedTuple):
    """What figures of samples are drawn of."""

    normalised: pd.DataFrame
    transformed: Transformed
    groups: pd.DataFrame
    """Columns of the design."""


def draw(
    adata: anndata.AnnData, tested: Sequence[Tested], transformed: Transformed | None = None
) -> Iterator[Drawn]:
    """Every figure that can be made of an analysis, one after the other.

    Those of samples need them, and 200 of them at most.

    Parameters
    ----------
    transformed
        What samples are compared on; log₂ (normalised count + 1) when not given.
    """
    stored: dict[str, Any] = adata.uns["de"]
    alpha = float(stored["settings"]["alpha"])
    some = _samples(adata, transformed)
    for one in tested:
        yield from _of_contrast(one, alpha, some, list(stored["levels"]))
    genes = get.genes(adata)
    yield Drawn(
        "dispersion",
        "Dispersions",
        "Gene-wise estimates, their trend over the mean, and the final values that are shrunken "
        "towards it: a trend that misses the cloud means that the model does not suit the data.",
        _figure(pl.dispersion(genes, get.trend(adata))),
    )
    if some is not None:
        yield from _of_samples(adata, some, tested)


def _of_contrast(
    one: Tested, alpha: float, some: _Samples | None, levels: list[str]
) -> Iterator[Drawn]:
    """Figures of one contrast."""
    for name, title, caption, make in (
        (
            "ma",
            "MA",
            "Fold change against mean expression: genes in colour are significant, and without a "
            "change the cloud is centred on 0 at every mean.",
            lambda: pl.ma(one.table, contrast=one.name, alpha=alpha),
        ),
        (
            "volcano",
            "Volcano",
            "How sure a change is against how large it is.",
            lambda: pl.volcano(one.table, contrast=one.name, alpha=alpha),
        ),
        (
            "p_values",
            "p-values",
            "Flat with a peak near 0 is as it should be; a hill elsewhere says that standard "
            "errors are off, for example by a batch that is not in the design.",
            lambda: pl.p_values(one.table, contrast=one.name),
        ),
    ):
        yield Drawn(f"{name}{one.suffix}", title, caption, _figure(make()), one.suffix)
    top = strongest(one.table)
    if some is None or not len(top):
        return
    groups = _first(some.groups, one, levels)
    yield Drawn(
        f"heatmap{one.suffix}",
        f"The {min(_GENES, len(top))} genes with the smallest p-values",
        f"Each gene in each sample on the scale {some.transformed.scale}, less the gene's mean; "
        "samples by group.",
        _figure(
            pl.heatmap(
                some.transformed.table,
                top[:_GENES],
                groups.iloc[:, :4],
                label="difference from the gene's mean",
            )
        ),
        one.suffix,
    )
    if groups.shape[1]:
        yield Drawn(
            f"counts{one.suffix}",
            "Counts of the first genes",
            "Normalised counts of the genes with the smallest p-values, a point a sample, with "
            "the means of the groups: a change that hangs on one point is to be doubted.",
            _figure(pl.counts(some.normalised.loc[:, top[:_PANELS]], groups.iloc[:, :2])[0]),
            one.suffix,
        )


def _of_samples(
    adata: anndata.AnnData, some: _Samples, tested: Sequence[Tested]
) -> Iterator[Drawn]:
    """Figures of all samples."""
    stored: dict[str, Any] = adata.uns["de"]
    groups = _first(some.groups, tested[0], list(stored["levels"]))
    table, scale = some.transformed
    if len(table) > 2:
        yield Drawn(
            "pca",
            "Principal components",
            f"Samples that are near are alike, on the 500 genes that vary most ({scale}).",
            _figure(pl.pca(table, groups.iloc[:, :2])),
        )
    yield Drawn(
        "sample_distances",
        "Distances between samples",
        f"Dark is near ({scale}): a sample that is far from its group may be mislabelled or bad.",
        _figure(pl.sample_distances(table, groups.iloc[:, :4])),
    )
    yield Drawn(
        "cooks",
        "Cook's distances",
        "How far each sample moves each gene's fit: a box that stands above the others is a "
        "sample to look at, a dot above the cutoff an outlying count.",
        _figure(pl.cooks(tl.cooks(adata), float(stored["cooks_cutoff"]))),
    )


def _samples(adata: anndata.AnnData, transformed: Transformed | None) -> _Samples | None:
    """What figures of samples need; None where there are no samples here, or too many."""
    if not 1 < adata.n_obs <= MOST_SAMPLES:
        return None
    normalised = get.normalised(adata)
    if transformed is None:
        transformed = Transformed(np.log2(normalised + 1.0), "log₂ (normalised count + 1)")
    obs = pd.DataFrame(adata.obs)
    columns = list(io.design_columns(str(adata.uns["de"]["design"]), obs))
    return _Samples(normalised, transformed, obs.loc[:, columns])


def _first(groups: pd.DataFrame, one: Tested, levels: list[str]) -> pd.DataFrame:
    """Columns of the design: the contrast's before other factors, before numbers."""
    factors = [column for column in groups if column in levels]
    named = [c for c in groups if re.search(rf"(?<!\w){re.escape(str(c))}(?!\w)", one.name)]
    order = dict.fromkeys([*named, *reversed(factors), *groups])
    return groups.loc[:, list(order)]


def strongest(table: pd.DataFrame) -> pd.Index:
    """Genes by p-value, then by size of the statistic; those without one are left out."""
    p_value, stat = (pd.Series(table[c]).to_numpy(float) for c in ("p_value", "stat"))
    order = np.lexsort((-np.abs(stat), p_value))
    return pd.Index(table.index.to_numpy()[order[: np.count_nonzero(~np.isnan(p_value))]])


def _figure(ax: Any) -> Figure:
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        msg = "the Axes have no figure"
        raise TypeError(msg)
    return figure


def write(
    adata: anndata.AnnData,
    tested: Sequence[Tested],
    folder: Path,
    formats: Sequence[str],
    report: bool,
    transformed: Transformed | None = None,
) -> dict[str | None, list[io.Image]]:
    """Write every figure in each format; return those of a report by the suffix of the contrast.

    One at a time: a figure takes a megabyte or more.
    """
    images: dict[str | None, list[io.Image]] = {}
    if formats:
        folder.mkdir(exist_ok=True)
    for one in draw(adata, tested, transformed):
        for kind in formats:
            one.figure.savefig(folder / f"{one.name}.{kind}")
        if report:
            image = _image(one, folder / f"{one.name}.png" if "png" in formats else None)
            images.setdefault(one.contrast, []).append(image)
    return images


def _image(one: Drawn, path: Path | None) -> io.Image:
    """A figure for the report, read back where it has been written."""
    if path is None:
        file = streams.BytesIO()
        one.figure.savefig(file, format="png")
        data = file.getvalue()
    else:
        data = path.read_bytes()
    return io.Image(one.title, one.caption, data, wide=one.figure.get_figwidth() > _WIDE)
