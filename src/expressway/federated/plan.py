"""What an administrator asks of a deployed run, what a site decides, and what comes back."""

import base64
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expressway import io
from expressway.models import deseq
from expressway.run import ProtocolError
from expressway.run.wire import decode, encode

from .joining import Question, Rules
from .outcome import Wanted
from .publication import Publication

# Seconds without a sign of life after which a site is lost, and that one message may take it.
PATIENCE, LIMIT = 30.0, 600.0
_SETTINGS, _ERROR = Path("local/expressway.json"), "error.json"


class Lost(ProtocolError):
    """A site was lost, and the others may go on without it."""

    def __init__(self, message: str, site: str) -> None:
        super().__init__(message)
        self.site = site


class SiteSettings(NamedTuple):
    """What a site decides for itself; in ``local/expressway.json`` of its kit."""

    data: str
    """Folder of its table."""
    min_sites: int = 2
    min_samples: int = 3
    allow_plain: bool = False
    columns: tuple[str, ...] | None = None
    may_be_left_out: bool = False
    """The run may go on without it when it is lost; its share of earlier totals can then be told
    from the difference."""
    privacy_budget: float = 0.0
    """Sum of rho over all that is ever published of it."""

    def write(self, kit: Path) -> None:
        """Keep them in the site's kit."""
        (kit / _SETTINGS).write_text(json.dumps(self._asdict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, kit: Path) -> "SiteSettings":
        """What `write` kept."""
        found = cls(**json.loads((kit / _SETTINGS).read_text(encoding="utf-8")))
        return found._replace(columns=None if found.columns is None else tuple(found.columns))


class Analysis(NamedTuple):
    """What `analyse` is asked, and what comes after it."""

    question: Question
    settings: deseq.Settings
    trend: np.ndarray | None
    """Means and dispersions of a trend of one's own."""
    wanted: Wanted
    resume: bool = False


class Plan(NamedTuple):
    """All that is asked of a run."""

    sites: tuple[str, ...]
    asked: Analysis | Publication
    patience: float = PATIENCE
    """Seconds without a sign of life after which a site is lost."""
    limit: float = LIMIT
    """Seconds that a site may be at work on one message."""

    def text(self) -> str:
        """For the configuration of a job."""
        asked = self.asked._asdict()
        if isinstance(self.asked, Analysis):
            question = self.asked.question
            inputs, rules = tuple(question.inputs), question.rules._asdict()
            asked |= {"question": question._asdict() | {"inputs": inputs, "rules": rules}}
            asked |= {"settings": self.asked.settings._asdict()}
            asked |= {"wanted": self.asked.wanted._asdict()}
        return base64.b64encode(encode(self._asdict() | {"asked": asked})).decode()

    @classmethod
    def of(cls, text: str) -> "Plan":
        """What `text` said."""
        parts = decode(base64.b64decode(text))
        asked = parts["asked"]
        if "question" not in asked:
            return cls(**parts | {"asked": Publication.of(asked)})
        question = asked["question"]
        question |= {"rules": Rules(**question["rules"]), "inputs": io.Inputs(*question["inputs"])}
        asked |= {"question": Question(**question), "wanted": Wanted(**asked["wanted"])}
        asked |= {"settings": deseq.Settings(**asked["settings"])}
        return cls(**parts | {"asked": Analysis(**asked)})


def received(folder: Path) -> Path:
    """The folder of what the administrator received of a run, if it has a result.

    Raises
    ------
    Lost
        A site was lost that had agreed that the others go on.
    ProtocolError
        The run ended without a result; says why.
    """
    if (folder / _ERROR).is_file():
        said = json.loads((folder / _ERROR).read_text(encoding="utf-8"))
        if said["leaves"]:
            raise Lost(said["error"], said["lost"])
        raise ProtocolError(said["error"])
    if not folder.is_dir():
        message = "the run ended without a result; the coordinator's log says why"
        raise ProtocolError(message)
    return folder


def tell(folder: Path, error: str, *, lost: str | None = None, leaves: bool = False) -> None:
    """Leave word of why there is no result.

    Parameters
    ----------
    lost, leaves
        A site that was lost, and whether it had agreed that the others go on without it.
    """
    said = {"error": error, "lost": lost, "leaves": leaves}
    (folder / _ERROR).write_text(json.dumps(said), encoding="utf-8")
