"""Folders of several sites."""

from pathlib import Path

import anndata

from expressway._errors import InputError

from .read import read_counts

_TEXT = tuple(f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", ".gz"))
_COUNTS = (*_TEXT, ".mtx", ".mtx.gz")


def read_sites(folder: str | Path) -> dict[str, anndata.AnnData]:
    """Return the counts of each site, samples × genes, under the name of its folder.

    Parameters
    ----------
    folder
        Holds one folder a site, each with ``counts.csv`` (or tsv, mtx, also gzipped) and
        ``samples.csv``, or with one h5ad file.

    Raises
    ------
    InputError
        No such folders, or one without these files, or files that `read_counts` refuses.
    """
    folder = Path(folder)
    if not folder.is_dir():
        message = f"{folder}: no such folder; it must hold one folder a site"
        raise InputError(message)
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not places:
        message = (
            f"{folder} holds no folders; it must hold one a site, each with counts.csv and "
            "samples.csv or an h5ad file"
        )
        raise InputError(message)
    return {place.name: read_site(place) for place in places}


def read_site(folder: str | Path) -> anndata.AnnData:
    """Return the counts of one site, samples × genes.

    Parameters
    ----------
    folder
        Holds ``counts.csv`` (or tsv, mtx, also gzipped) and ``samples.csv``, or one h5ad file.

    Raises
    ------
    InputError
        As of `read_sites`.
    """
    return read_counts(*_files(Path(folder)))


def _files(place: Path) -> tuple[Path, Path | None]:
    """The counts and the sample table of a site."""
    stored = sorted(place.glob("*.h5ad"))
    counts, samples = _named(place, "counts", _COUNTS), _named(place, "samples", _TEXT)
    if len(stored) == 1 and counts is None:
        return stored[0], samples
    if counts is None or samples is None:
        missing = "counts.csv" if counts is None else "samples.csv"
        message = f"{place}: {missing} is missing (or one h5ad file instead of both)"
        raise InputError(message)
    return counts, samples


def _named(place: Path, name: str, endings: tuple[str, ...]) -> Path | None:
    """The first file of a name with one of the endings."""
    return next((p for e in endings if (p := place / f"{name}{e}").is_file()), None)
