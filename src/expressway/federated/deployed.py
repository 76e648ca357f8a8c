"""An analysis across sites on NVIDIA FLARE: the two classes that its processes run.

A kit's list of allowed classes has one of them and nothing else, so that a job brings no code: it
brings what is asked, in one text. Sites take their tables, rules and keys from their own kits.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata

from expressway import io
from expressway.models import deseq
from expressway.run import Checkpoint, ProtocolError, flare, privacy
from expressway.run.certificates import Certified
from expressway.run.disclosure import Disclosure
from expressway.run.remote import Line

from .analysis import analyse
from .member import Member
from .outcome import outcome, save
from .part import Kept, Permissions, where
from .plan import Plan, SiteSettings, tell
from .publication import Publication
from .published import published
from .tested import keep

logger = logging.getLogger(__name__)

# Names of the column and layers that lists and files become.
CONTROLS, OFFSETS, WEIGHTS = "control genes", "offsets", "weights"
STAGES = "stages"


class Site(flare.SiteExecutor):
    """The site of a kit, in one run."""

    def answerer(self, kit: Path, name: str) -> Callable[[bytes], bytes]:
        """What answers messages; what goes wrong is told here in full, and elsewhere in a line."""
        return answering(site_of(kit, name))


def answering(member: Member) -> Callable[[bytes], bytes]:
    """What a member answers, or why it does not: to others without anything of its table."""

    def answer(body: bytes) -> bytes:
        try:
            return member.answer(body)
        except ProtocolError as error:
            logger.error("site %s refused: %s", member.name, error)
            return member.refusal(body, str(error))
        except io.InputError as error:
            logger.error("site %s: %s", member.name, error)
            return member.refusal(body, "its table was refused; its own log says why")
        except Exception as error:
            logger.error("site %s: %s", member.name, where(error))
            why = f"it could not answer ({type(error).__name__}); its own log says why"
            return member.refusal(body, why)

    return answer


def site_of(kit: Path, name: str) -> Member:
    """The member that a kit makes: its table, rules, certificate and disclosure."""
    settings = SiteSettings.read(kit)
    roster = json.loads((kit / "local/roster.json").read_text())
    startup = kit / "startup"
    signer = Certified(startup / "client.crt", startup / "client.key", startup / "rootCA.pem")
    allowed = Permissions(
        tuple(roster["sites"]),
        settings.min_sites,
        settings.min_samples,
        settings.allow_plain,
        settings.columns,
        settings.may_be_left_out,
    )

    def keep(run: str, kept: Kept) -> None:
        place = kit / "results" / run
        place.mkdir(parents=True, exist_ok=True)
        io.write_table(kept.samples, place / "samples.csv")
        anndata.AnnData(kept.fitted, obs=kept.samples).write_h5ad(place / "fitted.h5ad")

    return Member(
        name,
        lambda brought: table(Path(settings.data), brought),
        allowed,
        signer=signer,
        disclosure=Disclosure(kit / "disclosure.csv"),
        secret=_secret(kit / "local/secret"),
        keep=keep,
        account=privacy.Account(settings.privacy_budget, kit / privacy.SPENT),
    )


def table(folder: Path, brought: Mapping[str, Any]) -> anndata.AnnData:
    """A site's table with what an analysis finds beside counts.

    Raises
    ------
    InputError
        A file cannot be read, lacks a gene or sample, or is not in the site's folder.
    """
    adata = io.read_site(folder)
    if brought.get("controls") is not None:
        adata.var[CONTROLS] = io.among(brought["controls"], adata, "--control-genes")
    for layer in (OFFSETS, WEIGHTS):
        name = brought.get(layer)
        if name is None:
            continue
        if Path(name).name != name:
            message = f"file {name} of {layer} must be in the site's own folder, named without it"
            raise io.InputError(message)
        adata.layers[layer] = io.read_layer(folder / name, adata)
    return adata


def _secret(path: Path) -> bytes:
    """A site's secret, made when it is first needed."""
    if not path.is_file():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


class Coordinator(flare.Conductor):
    """The coordinator of a run.

    Parameters
    ----------
    plan
        `Plan.text`.
    """

    def __init__(self, plan: str) -> None:
        super().__init__()
        self._plan = plan

    def conduct(
        self,
        kit: Path,
        out: Path,
        sites: Mapping[str, flare.Reach],
        failed: Callable[[], str | None],
    ) -> None:
        """The run; whatever ends it early, the folder says so, and it is raised again.

        FLARE would wait for sites that are lost when a run ends well.
        """
        lines: list[Line] = []
        try:
            plan = Plan.of(self._plan)
            missing = sorted(set(plan.sites) - set(sites))
            if missing:
                message = f"site {missing[0]} is not connected; start it and run again"
                raise ProtocolError(message)
            run = secrets.token_hex(16)
            for name in sorted(plan.sites):
                channel = flare.Aux(name, sites[name], plan.patience, plan.limit)
                lines.append(Line(name, channel, run))
            _run(plan, kit, out, lines)
        except (flare.SiteLost, flare.Ended) as error:
            site = error.site if isinstance(error, flare.SiteLost) else failed()
            why: ProtocolError = error
            if site is not None and isinstance(error, flare.Ended):
                why = flare.SiteLost(site, "has lost its process")
            leaves = any(line.leaves for line in lines if line.name == site)
            tell(out, str(why), lost=site, leaves=leaves)
            raise
        except io.InputError as error:
            tell(out, str(error))
            raise
        except Exception as error:
            kind = type(error).__name__
            tell(out, f"the coordinator failed ({kind}); log/console.txt of its kit says where")
            raise


def _run(plan: Plan, kit: Path, out: Path, lines: Sequence[Line]) -> None:
    """A run with these sites, from its first message to its result."""
    of = plan.asked
    if isinstance(of, Publication):
        published(lines, of).save(out)
        return
    checkpoints: list[Checkpoint] = []

    def kept(what: Mapping[str, Any]) -> deseq.Stage:
        text = json.dumps(what, sort_keys=True, default=str)
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        (kit / STAGES).mkdir(mode=0o700, exist_ok=True)
        checkpoints.append(Checkpoint(kit / STAGES / name, what, resume=of.resume))
        return checkpoints[0].run

    clock = io.Clock()
    run = analyse(lines, of.question, of.settings, trend=of.trend, clock=clock, kept=kept)
    found = outcome(run, of.wanted, clock)
    with clock.stage("what stays at sites"):
        for line in lines:
            keep(run, line.name)
    found.adata.uns["de"]["seconds"] = clock.seconds
    save(found, out)
    for checkpoint in checkpoints:
        checkpoint.remove()
