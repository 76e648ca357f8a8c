"""Stages of an analysis kept on disk, so that a run that ended early goes on where it was."""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from expressway._errors import InputError

T = TypeVar("T")


class Checkpoint:
    """Runs each stage once: its result is written to a folder, and read from there next time.

    Files are Python pickles: go on only from folders that you trust.

    Parameters
    ----------
    folder
        Of this run's stages.
    run
        What the run is: settings, design, genes, sites. Stages of another run are not used.
    resume
        Go on from what is there; otherwise it is removed first.

    Raises
    ------
    InputError
        ``resume``, and what is there is of another run; or the folder is not one of stages.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        text = json.dumps(run, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        mark = folder / "run"
        if folder.exists() and not mark.is_file():
            message = f"{folder} is there and holds no stages of a run; rename or remove it"
            raise InputError(message)
        if resume and mark.is_file() and mark.read_text() != digest:
            message = (
                f"{folder} holds stages of another run (other data, design or settings); "
                "leave --resume out to start again"
            )
            raise InputError(message)
        if folder.is_dir() and not resume:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest)

    def run(self, name: str, compute: Callable[[], T]) -> T:
        """Result of a stage: read back, or computed and written."""
        path = self._folder / f"{re.sub(r'[^A-Za-z]+', '-', name)}.pickle"
        if path.is_file():
            with path.open("rb") as file:
                return pickle.load(file)
        result = compute()
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as file:
            pickle.dump(result, file)
        scratch.replace(path)
        return result

    def remove(self) -> None:
        """Remove the folder: the run has its results."""
        shutil.rmtree(self._folder, ignore_errors=True)
