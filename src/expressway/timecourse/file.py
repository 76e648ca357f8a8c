"""A time-course analysis read from its file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from expressway import io
from expressway.core.newton import Certificate
from expressway.io import course_tables as tables
from expressway.models import course
from expressway.models.clusters import Clusters
from expressway.models.count_curves import CountCurves
from expressway.models.mixture import Mixture
from expressway.models.timecourse import TimeCourse

from .result import TABLES, Courses
from .steps import Data, OneFit, Settings, basis_of, curves_of, frame_of


def load(path: str | Path) -> Courses:
    """The analysis that `Courses.save` wrote; nothing is fitted again.

    Raises
    ------
    InputError
        The file is none of these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        return _loaded(arrays, about)
    except (OSError, EOFError, BadZipFile, KeyError, ValueError, TypeError) as error:
        if isinstance(error, io.InputError):
            raise
        msg = f"{path} holds no time-course analysis ({' '.join(str(error).split())})"
        raise io.InputError(msg) from None


def _loaded(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Courses:
    def names(name: str) -> tuple[str, ...]:
        return tuple(arrays[name].tolist())

    of = course.Plan(
        arrays["time"], arrays["group"], names("groups"), arrays.get("replicate"), names("sample")
    )
    given = Data(of, names("genes"), arrays["y"], about["counts"], arrays["held"])
    kept: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in about["settings"].items()
    }
    settings = Settings(**kept)
    fits = {
        int(df): _fit_again(given, int(df), settings, arrays, numbers)
        for df, numbers in about["certificates"].items()
    }
    read = {name: tables.unpacked(about["tables"][name]) for name in TABLES}
    return Courses(given, settings, fits, about["chosen"], **read, seconds=about["seconds"])


def _fit_again(
    given: Data,
    df: int,
    settings: Settings,
    arrays: Mapping[str, np.ndarray],
    numbers: Sequence[Any],
) -> OneFit:
    """Curves and clusters with one df, from what was saved."""
    mixture = Mixture(arrays[f"df{df}_centroids"], arrays[f"df{df}_log_weight"])
    clusters = Clusters(mixture, numbers[0], Certificate(*numbers[1:]), ())
    found = TimeCourse(clusters, arrays[f"df{df}_sensitivity"])
    if not given.counts:
        return curves_of(given, df, settings)._replace(found=found)
    status = tuple(arrays[f"df{df}_status"].tolist())
    usable = np.array(status) == "ok"
    trained, held = np.flatnonzero(usable & ~given.held), np.flatnonzero(usable & given.held)
    genes = np.concatenate([trained, held])
    basis = basis_of(given, df, settings)
    coordinates = frame_of(given, basis)
    every = CountCurves(
        given.y[genes],
        arrays[f"df{df}_offset"],
        arrays[f"df{df}_alpha"],
        coordinates,
        settings.spread,
        arrays[f"df{df}_beta"],
    )
    test = every.some(slice(len(trained), None)) if len(held) else None
    return OneFit(df, basis, every.some(slice(0, len(trained))), test, genes, status, found)
