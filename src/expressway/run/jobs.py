"""Jobs on NVIDIA FLARE: how an administrator hands them in and has their results."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expressway._errors import InputError

from .kits import CLASSES, Classes, read_kit
from .quietly import module, one_line, read_json, silence, write_json


@contextlib.contextmanager
def session(kit: Path, timeout: float = 10.0) -> Iterator[Any]:
    """A session of the administrator with the coordinator.

    Raises
    ------
    InputError
        The folder is no administrator's kit, or there is no such session in time.
    """
    found = read_kit(kit, "administrator")
    admin = read_json(found.folder / "startup" / "fed_admin.json")["admin"]
    api = module("nvflare.fuel.flare_api.flare_api")
    loud = logging.getLogger("nvflare")
    level = loud.level
    loud.setLevel(logging.CRITICAL + 1)
    try:
        with (
            _said(f"no session with the coordinator at {admin['host']}:{admin['port']}"),
            silence(),
        ):
            made = api.new_secure_session(found.name, str(found.folder), timeout=timeout)
        try:
            yield made
        finally:
            with contextlib.suppress(Exception), silence():
                made.close()
    finally:
        loud.setLevel(level)


def write_job(
    folder: Path,
    project: str,
    sites: Sequence[str],
    server_args: Mapping[str, Any],
    site_args: Mapping[str, Any],
    *,
    classes: Classes = CLASSES,
) -> Path:
    """Folder of a job that needs all of some sites; arguments are those of the two classes."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    meta = {
        "name": project,
        "resource_spec": {},
        "min_clients": len(sites),
        "mandatory_clients": list(sites),
        "deploy_map": {"app": ["server", *sites]},
    }
    nothing = {"components": [], "task_data_filters": [], "task_result_filters": []}
    flow = {"id": "coordinator", "path": classes.coordinator, "args": dict(server_args)}
    executor = {"path": classes.site, "args": dict(site_args)}
    parts = {
        "server": {"workflows": [flow]},
        "client": {"executors": [{"tasks": ["*"], "executor": executor}]},
    }
    write_json(folder / "meta.json", meta)
    for name, part in parts.items():
        write_json(config / f"config_fed_{name}.json", {"format_version": 2, **part, **nothing})
    return folder


def submit(session: Any, job_folder: Path) -> str:
    """Name of the job that has been handed in. FLARE signs the folder's files in place."""
    with _said(f"the coordinator did not take {job_folder}"), silence():
        return session.submit_job(str(job_folder.resolve()))


class Status(NamedTuple):
    """How a job is."""

    state: str
    """In FLARE's words: ``SUBMITTED``, ``RUNNING``, ``FINISHED:COMPLETED``, ..."""
    detail: str
    """What FLARE last said of its way to the sites: why it waits, who did not take it."""


def job_status(session: Any, job: str) -> Status:
    """How a job is."""
    with _said(f"no status of the job {job}"), silence():
        meta = session.get_job_meta(job)
        said = meta.get("job_deploy_detail") or meta.get("schedule_history", [])[-1:]
        return Status(str(meta["status"]), one_line("; ".join(said)))


def abort(session: Any, job: str) -> None:
    """End a job; nothing happens to one that has ended."""
    with _said(f"the job {job} has not been aborted"), silence():
        session.abort_job(job)


def fetch(session: Any, job: str, out: Path) -> Path:
    """``out``, with what the coordinator's process of an ended job has written.

    That is its run folder, ``fl_ctx.get_engine().get_workspace().get_run_dir(job)``, with FLARE's
    own files and logs of the job; nothing of the sites' folders.

    Raises
    ------
    InputError
        ``out`` is there, or the job has no result.
    """
    if out.exists():
        message = f"{out} is there; rename or remove it"
        raise InputError(message)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.parent) as scratch:
        with _said(f"no result of the job {job}"), silence():
            found = session.download_job_result(job, scratch)
        made = Path(found or scratch) / "workspace"
        if not made.is_dir():
            message = f"the job {job} has no result yet; wait until it has ended"
            raise InputError(message)
        made.rename(out)
    return out


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Errors of FLARE, of which there are many, as one line."""
    try:
        yield
    except Exception as error:
        message = f"{what}: {one_line(error) or type(error).__name__}"
        raise InputError(message) from error
