"""What modules about NVIDIA FLARE share: its imports, without what it prints, and its small files.

Nothing of it is imported before it is used, what it says becomes one line, and a file that is not
there holds nothing.
"""

import contextlib
import importlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def module(name: str) -> ModuleType:
    """FLARE is an extra, and brings the others: they are imported when they are first needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        message = f"there is no {error.name}: pip install 'expressway[federated]'"
        raise ImportError(message) from error


def silence() -> contextlib.ExitStack:
    """FLARE prints."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def one_line(text: object) -> str:
    """One line, of text that may have more."""
    return " ".join(str(text).split())


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that its owner only can read, or leave the old one as it is."""
    scratch = path.with_suffix(".part")
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)
