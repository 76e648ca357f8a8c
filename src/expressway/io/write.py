"""A folder of results that is there whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expressway._errors import InputError


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written.

    Raises
    ------
    InputError
        It is a file, or holds something and ``overwrite`` is false, or what it holds is not an
        earlier result.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder for the results"
        raise InputError(msg)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        msg = f"{folder} is not empty; name another folder or give --overwrite"
        raise InputError(msg)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "run.json").is_file():
        msg = f"{folder} holds other files than results (no run.json); name another folder"
        raise InputError(msg)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder beside the wanted one that takes its place when the block ends well.

    On any exception, an interrupt too, it is removed and the wanted folder is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
