"""A run of a deployment, from its submission to what came back."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from expressway import federated, io
from expressway.run import jobs, kits, participants

Only = Annotated[
    list[str] | None,
    typer.Option("--site", metavar="NAME", help="Only with this site; can be repeated."),
]
Patience = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=1, help="Give a site up that gives no sign of life for so long."
    ),
]
Limit = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=1, help="Give a site up that computes one answer for so long."
    ),
]
# Seconds between two looks at a run, and after which a silent coordinator is given up.
_LOOK, _GIVEN_UP = 0.5, 15.0
# Seconds after which a run that has not begun says why, and is given up.
_SAID, _BEGUN = 3.0, 60.0

logger = logging.getLogger(__name__)


def administrator(kit: Path) -> kits.Kit:
    """The administrator's kit in a folder.

    Raises
    ------
    InputError
        It is another one, or its keys are not good now.
    """
    found = kits.read_kit(kit, "administrator")
    participants.check_keys(found)
    return found


def chosen(kit: kits.Kit, only: Sequence[str] | None) -> list[str]:
    """Names of the sites that are to take part.

    Raises
    ------
    InputError
        The project has none of that name.
    """
    names = sorted(set(only or kit.sites))
    unknown = sorted(set(names) - set(kit.sites))
    if unknown:
        message = f"--site {unknown[0]}: the project has the sites {', '.join(kit.sites)}"
        raise io.InputError(message)
    return names


def carried_out(
    kit: Path,
    mine: kits.Kit,
    plan: federated.Plan,
    scratch: Path,
    watch: Callable[[str], None],
) -> Path:
    """Folder of what the coordinator has of a run, once it has ended.

    Parameters
    ----------
    scratch
        A folder for files of the run.
    watch
        Is told its states.

    Raises
    ------
    InputError
        The run does not begin, or the coordinator is gone.
    Lost, ProtocolError
        As of `federated.received`.
    """
    text = {"plan": plan.text()}
    job = jobs.write_job(scratch / "job", mine.project, plan.sites, text, {})
    with jobs.session(kit) as session:
        number = jobs.submit(session, job)
        try:
            _follow(lambda: jobs.job_status(session, number), watch)
        except BaseException:
            with contextlib.suppress(io.InputError):
                jobs.abort(session, number)
            raise
        found = jobs.fetch(session, number, scratch / "received") / "result"
    return federated.received(found)


def _follow(status: Callable[[], jobs.Status], watch: Callable[[str], None]) -> None:
    """Wait until a run has ended.

    Raises
    ------
    InputError
        There is no coordinator any more, or the run does not begin.
    """
    begun = said = False
    start = seen = time.monotonic()
    while True:
        time.sleep(_LOOK)
        try:
            state, detail = status()
            seen = time.monotonic()
        except io.InputError as error:
            silent = time.monotonic() - seen
            if silent > _GIVEN_UP:
                message = (
                    f"the coordinator has not answered for {silent:.0f} s; start it again with "
                    "'expressway federated coordinator' and go on with --resume"
                )
                raise io.InputError(message) from error
            continue
        watch(state.lower())
        if state.startswith("FINISHED"):
            return
        begun = begun or state == "RUNNING"
        waited = 0.0 if begun else seen - start
        lacks = _lacks(state, detail)
        if waited > _BEGUN:
            message = f"the run has not begun in {_BEGUN:.0f} s: {lacks}, and run again"
            raise io.InputError(message)
        if waited > _SAID and not said:
            logger.warning("the run has not begun: %s", lacks)
            said = True


def _lacks(state: str, detail: str) -> str:
    """Why a run does not begin, from what FLARE says (2.9, job_scheduler.py), and what to do."""
    missing = re.search(r"missing required site (\S+)", detail)
    if missing:
        return f"site {missing[1]} is not connected; start 'expressway federated site' there"
    if state == "DISPATCHED":  # FLARE knows no more
        return "sites are starting their processes; see log/console.txt in their kits"
    said = re.sub(r"^[-\d]+ [:\d]+: ", "", detail)
    if said and said != "scheduled":
        return f"{said}; see that all sites are connected"
    return f"the coordinator is at work on others ({kits.RUNS} at once); wait until they have ended"
