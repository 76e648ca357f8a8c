"""A clustering in one file."""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from expressway import io
from expressway.models.along import Frame
from expressway.models.dirichlet import Base, Components, Prior, Totals
from expressway.models.gene_clusters import Clustered
from expressway.models.gene_mixtures import Mixtures, Sites, placed
from expressway.models.mixture_ascent import Mixed

from .result import Clusters
from .steps import Data, Rows, Settings

ARRAYS = ("used", "beta", "log_alpha", "log_likelihood")
FRAME = ("z", "raw", "forward")


def save(found: Clusters, path: str | Path) -> None:
    """Write a clustering without its counts."""
    data = found.data
    arrays: dict[str, Any] = {name: getattr(data, name) for name in ARRAYS}
    arrays |= {f"frame_{name}": getattr(data.frame, name) for name in FRAME}
    for name in ("genes", "samples", "along", "status", "names", "raw_names"):
        arrays[name] = np.array(getattr(data, name))
    for i, rows in enumerate(data.curves):
        arrays |= {f"rows{i}_time": rows.time, f"rows{i}_z": rows.z}
    arrays |= {"field": found.found.sites.field, "precision": found.found.sites.precision}
    arrays |= {"first_field": data.sites.field, "first_precision": data.sites.precision}
    mixtures = {"each": found.found.mixtures, "two": found.found.two_step, "all": found.together}
    about: dict[str, Any] = {
        "settings": found.settings._asdict(),
        "priors": [prior._asdict() for prior in found.priors],
        "seconds": found.seconds,
        "doubts": list(found.doubts),
        "shape": data.shape,
        "size_factors": data.size_factors,
        "condition": data.frame.condition,
        "orthonormal": data.frame.orthonormal,
        "lineages": [rows.lineage for rows in data.curves],
        "bounds": found.found.bounds,
        "mixtures": {name: _about(name, of, arrays) for name, of in mixtures.items()},
    }
    arrays["about"] = np.array(json.dumps(about))
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)


def _about(name: str, of: Mixtures, arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of some mixtures, and what else they are made of."""
    arrays |= {
        f"{name}_mean": of.mean,
        f"{name}_center": of.center,
        f"{name}_variance": of.variance,
    }
    told = []
    for i, block in enumerate(of.blocks):
        state = block.state
        for group, part in (("q", state.components), ("t", state.totals), ("b", block.base)):
            for key, value in part._asdict().items():
                arrays[f"{name}_{i}_{group}_{key}"] = np.asarray(value)
        told.append({"coordinates": block.coordinates, "elbo": state.elbo})
    return {"blocks": told, "elbo": of.elbo, "trace": of.trace, "starts": of.starts}


def load(path: str | Path) -> Clusters:
    """The clustering that `Clusters.save` wrote; nothing is fitted again.

    Raises
    ------
    InputError
        The file is none of these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _loaded(arrays, json.loads(str(arrays["about"])))
    except (OSError, EOFError, BadZipFile, KeyError, ValueError, TypeError) as error:
        if isinstance(error, io.InputError):
            raise
        msg = f"{path} holds no clustering ({' '.join(str(error).split())})"
        raise io.InputError(msg) from None


def _loaded(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Clusters:
    def words(name: str) -> tuple[str, ...]:
        return tuple(arrays[name].tolist())

    curves = tuple(
        Rows(name, arrays[f"rows{i}_time"], arrays[f"rows{i}_z"])
        for i, name in enumerate(about["lineages"])
    )
    frame = Frame(
        arrays["frame_z"],
        arrays["frame_raw"],
        arrays["frame_forward"],
        about["condition"],
        about["orthonormal"],
    )
    sites = Sites(arrays["field"], arrays["precision"])
    first = Sites(arrays["first_field"], arrays["first_precision"])
    data = Data(
        words("genes"),
        words("samples"),
        words("along"),
        about["size_factors"],
        words("status"),
        arrays["used"],
        None,
        frame,
        curves,
        words("names"),
        words("raw_names"),
        about["shape"],
        arrays["beta"],
        arrays["log_alpha"],
        arrays["log_likelihood"],
        first,
    )
    each = _mixtures("each", sites, arrays, about)
    two = _mixtures("two", first, arrays, about)
    together = _mixtures("all", sites, arrays, about)
    bounds = tuple((kind, value, nb) for kind, value, nb in about["bounds"])
    return Clusters(
        data,
        Settings(**about["settings"]),
        tuple(Prior(**prior) for prior in about["priors"]),
        Clustered(sites, each, bounds, two),
        together,
        about["seconds"],
        tuple(about["doubts"]),
    )


def _mixtures(
    name: str, sites: Sites, arrays: dict[str, np.ndarray], about: dict[str, Any]
) -> Mixtures:
    """Mixtures with the moments of genes made again."""
    told = about["mixtures"][name]
    mean, center = arrays[f"{name}_mean"], arrays[f"{name}_center"]

    def part(kind: Any, i: int, group: str) -> Any:
        fields: dict[str, Any] = {}
        for key in kind._fields:
            value = arrays[f"{name}_{i}_{group}_{key}"]
            fields[key] = value.item() if value.ndim == 0 else value
        if "concentration" in fields:
            fields["concentration"] = tuple(fields["concentration"].tolist())
        return kind(**fields)

    blocks = []
    for i, one in enumerate(told["blocks"]):
        q, totals = part(Components, i, "q"), part(Totals, i, "t")
        state, base = Mixed(q, totals, one["elbo"]), part(Base, i, "b")
        own = tuple(one["coordinates"])
        blocks.append(placed(own, base, state, sites.shifted(center), mean - center))
    return Mixtures(
        center,
        tuple(blocks),
        mean,
        arrays[f"{name}_variance"],
        told["elbo"],
        tuple((kind, value) for kind, value in told["trace"]),
        tuple((i, k, value, found) for i, k, value, found in told["starts"]),
    )
