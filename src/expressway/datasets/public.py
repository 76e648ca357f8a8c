"""Published data sets: where they are found, and that what was found is what was published.

Looked for in the folder of `data_folder`, then in the cache of downloads, then at a public address
(by pooch, which keeps what it fetched). Two digests are checked. That of the file at the public
address, where its archive publishes one. And always the SHA-256 of the content in one form
(`content_digest`), which is the same for every file that holds these data: a table of one's own
folder, or an object of R.
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pooch

from expressway._errors import InputError

from .folder import data_folder

# Every double as it was written, to the last digit; pandas' stubs do not know of it.
_EXACT: Any = "round_trip"
# Exceptions of requests, in words; the text of others is shown.
_REASONS = {
    "ConnectionError": "no connection",
    "ConnectTimeout": "no connection",
    "ReadTimeout": "no answer in time",
    "Timeout": "no answer in time",
}


class Address(NamedTuple):
    """A file that anybody can fetch."""

    url: str
    sha256: str
    """Of the file, as an archive or a collection of packages publishes it."""


class Table(NamedTuple):
    """What was read, as it stands there."""

    values: np.ndarray
    """By sample, then by gene."""
    genes: Sequence[str]
    obs: pd.DataFrame


class Dataset(NamedTuple):
    """A data set: where it is, what it is, how it is brought into one form."""

    name: str
    files: tuple[str, str]
    """Names of its tables in a folder of one's own: a row a gene, and a row a sample."""
    sha256: str
    """`content_digest` of what is returned."""
    tidy: Callable[[pd.DataFrame], pd.DataFrame]
    """The sample table as it is returned, of that of a file."""
    about: dict[str, str]
    """title, source (a page), licence, citation."""
    addresses: tuple[Address, ...] = ()
    read: Callable[[Sequence[Path]], Table] | None = None
    """Of the files at the addresses; None where there is no public file to read."""


def get(wanted: Dataset) -> anndata.AnnData:
    """The data set, from the first place that has it.

    Raises
    ------
    InputError
        No place has it, a file cannot be read, or its content is another: one line.
    """
    folder = data_folder()
    paths = [folder / name for name in wanted.files] if folder else []
    if paths and all(path.is_file() for path in paths):
        found, place = _tables(*paths), str(folder)
    else:
        found, place = _public(wanted, folder), wanted.addresses[0].url if wanted.addresses else ""
    return _checked(wanted, found, place)


def content_digest(adata: anndata.AnnData) -> str:
    """SHA-256 of genes, samples, ``obs`` and ``X``, in a form that no file has a say in.

    Lines of text (names of genes, of samples, of each column of ``obs`` and its values), then the
    values of ``X`` by sample: whole numbers as 8 bytes, others as doubles, the lowest byte first.
    """
    found = hashlib.sha256()
    obs = pd.DataFrame(adata.obs)
    for name, values in (
        ("genes", adata.var_names),
        ("samples", adata.obs_names),
        *((str(name), obs[name]) for name in obs),
    ):
        found.update("\n".join([name, *map(str, values), ""]).encode())
    x = np.asarray(adata.X)
    found.update(np.ascontiguousarray(x, "<i8" if x.dtype.kind in "iu" else "<f8").tobytes())
    return found.hexdigest()


def member(path: Path, pattern: str) -> tuple[str, bytes]:
    """Name and content of the file in a tar archive whose name fits a pattern.

    Raises
    ------
    InputError
        There is none, or the archive cannot be read.
    """
    try:
        with tarfile.open(path) as archive:
            for one in archive:
                file = archive.extractfile(one) if re.search(pattern, one.name) else None
                if file is not None:
                    return one.name, file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        msg = f"cannot read {path}: {reason}; remove it, and it will be fetched again"
        raise InputError(msg) from error
    msg = f"{path} holds no file {pattern}"
    raise InputError(msg)


def _tables(counts: Path, samples: Path) -> Table:
    """What two csv files hold."""
    try:
        values = pd.read_csv(counts, index_col=0, float_precision=_EXACT)
        obs = pd.read_csv(samples, index_col=0, float_precision=_EXACT)
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        msg = f"cannot read {counts} and {samples.name}: {reason}; get them anew"
        raise InputError(msg) from error
    missing = obs.index.difference(values.columns)
    if len(missing):
        msg = f"{counts} has no column {missing[0]}, a sample of {samples.name}; get them anew"
        raise InputError(msg)
    return Table(values[obs.index].to_numpy().T, list(map(str, values.index)), obs)


def _public(wanted: Dataset, folder: Path | None) -> Table:
    """What is at the public addresses, or was fetched from there before."""
    place = folder or "a folder (EXPRESSWAY_DATA and ../shared/data are none)"
    tried = f"{' and '.join(wanted.files)} are not in {place}"
    advice = "set EXPRESSWAY_DATA to a folder that has these files"
    if wanted.read is None:
        msg = (
            f"{wanted.name} is not here: {tried}, and no public file of it can be fetched "
            f"({wanted.about['source']} has its source): {advice}"
        )
        raise InputError(msg)
    return wanted.read([_fetched(one, wanted.name, tried, advice) for one in wanted.addresses])


def _fetched(address: Address, name: str, tried: str, advice: str) -> Path:
    """Path of a file in the cache, fetched where it was not there."""
    file = f"{name}-{address.url.rsplit('/', 1)[-1]}"
    folder = pooch.os_cache("expressway")
    try:
        known = f"sha256:{address.sha256}"
        return Path(pooch.retrieve(address.url, known, fname=file, path=folder))
    except (OSError, ValueError) as error:
        reason = _REASONS.get(type(error).__name__) or " ".join(str(error).split())
        msg = f"{name} cannot be had: {tried}, and from {address.url}: {reason}; {advice}"
        raise InputError(msg) from error


def _checked(wanted: Dataset, found: Table, place: str) -> anndata.AnnData:
    """The data set as it is returned, if it is the published one."""
    values = np.asarray(found.values)
    if values.dtype.kind == "i" or np.array_equal(values, np.round(values)):
        values = values.astype(np.int32)
    obs = found.obs
    missing = None
    try:
        obs = wanted.tidy(found.obs)
    except KeyError as error:
        missing = error
    if missing is None:
        var = pd.DataFrame(index=pd.Index(list(found.genes), name="gene"))
        obs.index = pd.Index(list(map(str, found.obs.index)), name="sample")
        adata = anndata.AnnData(np.ascontiguousarray(values), obs=obs, var=var)
        got = content_digest(adata)
        if got == wanted.sha256:
            adata.uns["dataset"] = {"name": wanted.name, **wanted.about, "sha256": got}
            return adata
        reason = f"its content has SHA-256 {got[:12]}…, not {wanted.sha256[:12]}…"
    else:
        reason = f"its sample table has no {missing}"
    msg = f"{wanted.name} in {place} is not the published data set: {reason}; get it anew"
    raise InputError(msg)
