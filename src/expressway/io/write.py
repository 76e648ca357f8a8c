"""A folder of results that is there whole or not at all, and the files in it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from expressway._errors import InputError

RECORD = "run.json"


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written.

    Raises
    ------
    InputError
        It is a file, or may not be written to, or holds something and ``overwrite`` is false, or
        what it holds is not an earlier result.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder for the results"
        raise InputError(msg)
    there = _nearest(folder)
    if not there.is_dir():
        msg = f"{folder}: {there} is a file; name another folder for the results"
        raise InputError(msg)
    if not os.access(there, os.W_OK | os.X_OK):
        msg = f"{folder}: no permission to write in {there}; name another folder for the results"
        raise InputError(msg)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / RECORD).is_file():
        msg = f"{folder} is not empty and holds no results ({RECORD}); name another folder"
        raise InputError(msg)
    if not overwrite:
        msg = f"{folder} holds results already; name another folder or give --overwrite"
        raise InputError(msg)
    _written(folder)


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files become those of the wanted folder when the block ends well.

    On any exception, an interrupt too, the scratch folder is removed and the wanted one is as it
    was. A new folder appears by one renaming. One that is there stays (it may be a mount or a
    link): of its files, those that its record lists under "files" are replaced.
    """
    there = _nearest(folder).resolve()
    scratch = Path(tempfile.mkdtemp(prefix=".expressway-", dir=there))
    try:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        old.mkdir()
        yield new
        if folder.is_dir():
            _exchange(folder, new, old)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            new.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Write json; a number that is not finite is null."""
    text = json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _written(folder: Path) -> list[str]:
    """The files in a folder that an earlier run wrote."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        inside = folder.resolve()
        files = [str(name) for name in record["files"]]
        return [n for n in files if (inside / n).resolve().is_relative_to(inside)]
    except (ValueError, KeyError, TypeError, OSError) as error:
        msg = f"{folder / RECORD} is no record of a run; name another folder"
        raise InputError(msg) from error


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Move the earlier files of a folder to `old` and those of `new` into it, or leave all."""
    names = [str(path.relative_to(new)) for path in sorted(new.rglob("*")) if path.is_file()]
    earlier = _written(folder) if (folder / RECORD).is_file() else []
    away = [name for name in dict.fromkeys([*earlier, *names]) if (folder / name).is_file()]
    steps = [(folder / name, old / name) for name in away]
    steps += [(new / name, folder / name) for name in names]
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in steps:
            target.parent.mkdir(parents=True, exist_ok=True)
            moved.append((source, target))
            source.replace(target)
    except BaseException:
        for source, target in reversed(moved):
            if target.exists() and not source.exists():
                source.parent.mkdir(parents=True, exist_ok=True)
                target.replace(source)
            if target.parent != folder and not any(target.parent.iterdir()):
                target.parent.rmdir()
        raise


def _plain(value: Any) -> Any:
    """The same in what json knows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
