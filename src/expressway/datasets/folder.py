"""Where real data lie."""

import os
from pathlib import Path


def data_folder() -> Path | None:
    """Folder of the real data sets, or None.

    ``EXPRESSWAY_DATA`` where that names a folder, else ``../shared/data`` as seen from the
    current folder.
    """
    named = os.environ.get("EXPRESSWAY_DATA")
    candidates = [Path(named)] if named else []
    candidates.append(Path("..", "shared", "data"))
    return next((folder.resolve() for folder in candidates if folder.is_dir()), None)
