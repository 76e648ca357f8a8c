"""Deployment on NVIDIA FLARE: kits of keys and settings, their processes, and jobs.

A project has a coordinator (FLARE's server), sites (its clients) and an administrator (its admin,
of the role ``lead``). Each has a kit: a folder with a certificate of the project's own authority,
to which all connections are bound, and with settings under which a job is nothing but the two
classes of this package: no code travels, no shell command runs.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal, NamedTuple, NoReturn

from expressway._errors import InputError

SITE_CLASS = "expressway.federated.deployed.Site"
COORDINATOR_CLASS = "expressway.federated.deployed.Coordinator"
Role = Literal["coordinator", "site", "administrator"]

_AUTHORITY = "authority"
_README = (
    "root.key is the private key of this project's authority. Only whoever adds sites later needs "
    "it: keep it offline, and never send it to anyone.\n"
)
# Of the processes of a kit, jobs too: FLARE begins those in sessions of their own.
_MARK = "EXPRESSWAY_KIT"
# Seconds until a silent site is given up; sites are heard every 10 (nvflare, client_train.py).
_HEARTBEAT, _GRACE = 30, 30
# What the administrator may do (nvflare, private/fed/server/job_cmds.py and training_cmds.py).
_RIGHTS = ("submit_job", "list_jobs", "get_job_meta", "abort_job", "download_job", "check_status")


class Classes(NamedTuple):
    """What a job is made of: paths of classes."""

    site: str = SITE_CLASS
    """An Executor."""
    coordinator: str = COORDINATOR_CLASS
    """A Controller."""


CLASSES = Classes()


class Member(NamedTuple):
    """A participant of a project."""

    name: str
    organization: str


class Project(NamedTuple):
    """Who takes part in an analysis, and where its coordinator is."""

    name: str
    coordinator: Member
    """Named as its host."""
    port: int
    admin_port: int
    administrator: Member
    """Named as an address of mail."""
    sites: tuple[Member, ...]


class Kit(NamedTuple):
    """A folder of keys and settings of one participant."""

    folder: Path
    role: Role
    name: str
    project: str
    coordinator: str
    sites: tuple[str, ...]


def read_project(path: Path) -> Project:
    """A project from its YAML file.

    Raises
    ------
    InputError
        No such file; a key is unknown or missing; names are repeated or not as FLARE needs them;
        fewer than two sites.
    """
    try:
        content = _module("yaml").safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); name the project's YAML file"
        raise InputError(message) from error
    except (ValueError, _module("yaml").YAMLError) as error:
        message = f"{path} is no YAML: {_line(error)}"
        raise InputError(message) from error
    try:
        return _project(content)
    except ValueError as error:
        message = f"{path}: {error}"
        raise InputError(message) from error


def _project(content: object) -> Project:
    """A project from what its file holds."""
    needs = ("name", "coordinator", "administrator", "sites")
    found = _keys(content, "a project", needs)
    ports = ("port", "admin_port")
    coordinator = _keys(found["coordinator"], "coordinator", Member._fields, ports)
    port, admin_port = coordinator.get("port", 8102), coordinator.get("admin_port", 8103)
    for value in (port, admin_port):
        if type(value) is not int or not 0 < value < 2**16 or port == admin_port:
            message = f"ports are {port} and {admin_port}; two numbers from 1 to 65535 are needed"
            raise ValueError(message)
    sites = found["sites"]
    if not isinstance(sites, list) or len(sites) < 2:
        message = "fewer than two sites; list them as {name: ..., organization: ...}"
        raise ValueError(message)
    project = Project(
        _name(found["name"], "client", "name"),
        _member(coordinator, "server", "coordinator"),
        port,
        admin_port,
        _member(_keys(found["administrator"], "administrator", Member._fields), "admin"),
        tuple(_member(_keys(site, "a site", Member._fields), "client", "site") for site in sites),
    )
    members = (project.coordinator, project.administrator, *project.sites)
    seen = {_AUTHORITY, "server"}  # a folder beside the kits; how FLARE calls the coordinator
    for name in (member.name.lower() for member in members):
        if name in seen:
            message = f"the name {name!r} is taken; give each participant another one"
            raise ValueError(message)
        seen.add(name)
    return project


def _keys(
    value: object, what: str, needs: Sequence[str], may: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"{what} is {value!r}; needed are its keys {', '.join(needs)}"
        raise ValueError(message)
    missing = [key for key in needs if key not in value]
    other = [str(key) for key in value if key not in (*needs, *may)]
    if missing or other:
        wrong = f"has no {missing[0]!r}" if missing else f"has an unknown key {other[0]!r}"
        message = f"{what} {wrong}; its keys are {', '.join((*needs, *may))}"
        raise ValueError(message)
    return value


def _member(found: Mapping[str, Any], kind: str, what: str = "administrator") -> Member:
    return Member(
        _name(found["name"], kind, f"{what} name"),
        _name(found["organization"], "org", f"organization of the {what}"),
    )


_NEEDED = {
    "client": "letters, digits, - and _",
    "server": "the name of a host",
    "admin": "an address of mail",
    "org": "letters, digits and _",
}


def _name(value: object, kind: str, what: str) -> str:
    """A name as FLARE takes it: of a file and in a certificate, where 64 characters are most."""
    check = _module("nvflare.apis.utils.format_check").name_check
    if (
        not isinstance(value, str)
        or not 0 < len(value) < 64
        or value.startswith("-")
        or not value.isprintable()
        or check(value, kind)[0]
    ):
        message = f"{what} is {value!r}; needed is {_NEEDED[kind]}, at most 63 characters"
        raise ValueError(message)
    return value


# --- kits ---------------------------------------------------------------------------------------


def provision(project: Project, out: Path) -> dict[str, Path]:
    """Kits, by name of participant, made by FLARE's own provisioning.

    Certificates are valid for 360 days. ``out/authority`` keeps the root's private key, which must
    not travel. With an ``out`` of the same project that has fewer sites, kits of the new sites are
    made; rosters of kits that are still in ``out`` then name them, too, and kits elsewhere need
    their ``local/roster.json`` replaced.

    Raises
    ------
    InputError
        ``out`` is there and is of another project, or has all of its sites.
    """
    authority = out / _AUTHORITY
    known = _read_json(authority / "project.json")
    whole = json.loads(json.dumps(project._replace(sites=())))
    names = {m.name for m in (project.coordinator, project.administrator, *project.sites)}
    if out.exists():
        names -= set(known.get("names", []))
        if known.get("project") != whole or not names:
            message = f"{out} is there; rename it, or name a folder that is not there yet"
            raise InputError(message)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kits-", dir=out.parent) as scratch:
        made, root = _build(project, Path(scratch) / "flare", authority)
        kits = Path(scratch) / "kits"
        kits.mkdir(mode=0o700)
        for name in sorted(names):
            shutil.move(made / name, kits / name)
        (kits / _AUTHORITY).mkdir()
        for name, text in {**root, "readme.txt": _README}.items():
            (kits / _AUTHORITY / name).write_text(text)
        everyone = sorted(names | set(known.get("names", [])))
        _write_json(kits / _AUTHORITY / "project.json", {"project": whole, "names": everyone})
        _close(kits)
        if not out.exists():
            kits.rename(out)
        else:
            for name in names:
                (kits / name).rename(out / name)
            (kits / _AUTHORITY / "project.json").replace(authority / "project.json")
    for name, role in _roles(project):
        if (out / name).is_dir():
            _write_json(out / name / "local" / "roster.json", _roster(project, role, name))
            prepare(out / name)
    return {name: out / name for name in sorted(names)}


def _roles(project: Project) -> list[tuple[str, Role]]:
    sites: list[tuple[str, Role]] = [(site.name, "site") for site in project.sites]
    return [
        (project.coordinator.name, "coordinator"),
        (project.administrator.name, "administrator"),
        *sites,
    ]


def _roster(project: Project, role: str, name: str) -> dict[str, Any]:
    return {
        "project": project.name,
        "coordinator": project.coordinator.name,
        "sites": sorted(site.name for site in project.sites),
        "role": role,
        "name": name,
    }


def _build(project: Project, folder: Path, authority: Path) -> tuple[Path, dict[str, str]]:
    """Folder of kits as FLARE makes them, and certificate and key of the root."""
    entity, impl = _module("nvflare.lighter.entity"), "nvflare.lighter.impl."
    old: dict[str, Any] = {}
    if authority.is_dir():
        keys = importlib.import_module("cryptography.hazmat.primitives.serialization")
        key = keys.load_pem_private_key((authority / "root.key").read_bytes(), None)
        old = {
            "serialized_root_cert": (authority / "root.pem").read_bytes(),
            "root_private_key": key,
        }
    made = entity.Project(project.name, "", props={"api_version": 3}, **old)
    ports = {"fed_learn_port": project.port, "admin_port": project.admin_port}
    made.set_server(*project.coordinator, ports)
    for site in project.sites:
        made.add_client(*site, {"allow_log_streaming": False})
    made.add_admin(*project.administrator, {"role": "lead"})
    builders = [
        _module(impl + "workspace").WorkspaceBuilder(template_file=["master_template.yml"]),
        _module(impl + "static_file").StaticFileBuilder(config_folder="config"),
        _module(impl + "cert").CertBuilder(),
        _module(impl + "signature").SignatureBuilder(),
    ]
    with _silence():
        provisioner = _module("nvflare.lighter.provisioner").Provisioner(str(folder), builders)
        result = provisioner.provision(made)
    if result.get(_module("nvflare.lighter.constants").CtxKey.BUILD_ERROR):
        message = f"FLARE made no kits: {_line('; '.join(result.get_errors()))}"
        raise InputError(message)
    if old:
        root = {name: (authority / name).read_text() for name in ("root.pem", "root.key")}
    else:
        state = _read_json(Path(result.get_state_dir()) / "cert.json")
        root = {"root.pem": state["root_cert"], "root.key": state["root_pri_key"]}
    return Path(result["current_prod_dir"]), root


# --- settings -----------------------------------------------------------------------------------


def read_kit(kit: Path, role: Role) -> Kit:
    """What a kit is, which must be of a role.

    Raises
    ------
    InputError
        The folder is no kit, or one of another role.
    """
    roster = _read_json(kit / "local" / "roster.json")
    if not {"project", "coordinator", "sites", "role", "name"} <= set(roster):
        message = (
            f"{kit} is no kit (it has no local/roster.json); name the folder of a {role}'s kit"
        )
        raise InputError(message)
    if roster["role"] != role:
        message = f"{kit} is the kit of {roster['name']}, a {roster['role']}; needed is a {role}'s"
        raise InputError(message)
    sites = tuple(roster["sites"])
    return Kit(kit.resolve(), role, roster["name"], roster["project"], roster["coordinator"], sites)


def prepare(kit: Path, *, classes: Classes = CLASSES) -> Kit:
    """The kit, with its settings written for where it is now.

    Only the two classes may be part of a job; the administrator may submit, list, abort and fetch
    jobs, and nobody may do anything else. Jobs and snapshots of the coordinator are kept in the
    kit, where FLARE has ``/tmp/nvflare``.

    Raises
    ------
    InputError
        The folder is no kit.
    """
    found = read_kit(kit, _read_json(kit / "local" / "roster.json").get("role", "site"))
    if found.role == "administrator":
        return found
    local = found.folder / "local"
    own = _site(classes) if found.role == "site" else _coordinator(found.folder, classes)
    common = {"format_version": 2, "class_list_enforcement_mode": "enforce"}
    _write_json(local / "resources.json", {**common, "allow_log_streaming": False, **own})
    rights = dict.fromkeys(_RIGHTS, "any")
    _write_json(
        local / "authorization.json", {"format_version": "1.0", "permissions": {"lead": rights}}
    )
    _write_json(local / "log_config.json", _LOGGING)
    return found


def _site(classes: Classes) -> dict[str, Any]:
    """Settings of a site. Nothing is asked of GPUs."""
    common = "nvflare.app_common."
    components = {
        "resource_manager": (
            "resource_managers.passthrough_resource_manager.PassthroughResourceManager"
        ),
        "resource_consumer": (
            "resource_consumers.passthrough_resource_consumer.PassthroughResourceConsumer"
        ),
        "process_launcher": "job_launcher.client_process_launcher.ClientProcessJobLauncher",
    }
    return {
        "class_allow_list": [classes.site],
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": [
            {"id": name, "path": common + path, "args": {}} for name, path in components.items()
        ],
    }


def _coordinator(kit: Path, classes: Classes) -> dict[str, Any]:
    """Settings of the coordinator."""
    common = "nvflare.app_common."
    storage = common + "storages.filesystem_storage.FilesystemStorage"
    snapshots = {"root_dir": str(kit / "snapshots"), "uri_root": "/"}
    stored = {"uri_root": str(kit / "jobs"), "job_store_id": "job_store"}
    parts = [
        (
            "job_scheduler",
            common + "job_schedulers.job_scheduler.DefaultJobScheduler",
            {"max_jobs": 4},
        ),
        ("job_manager", "nvflare.apis.impl.job_def_manager.SimpleJobDefManager", stored),
        ("job_store", storage, {}),
        (
            "process_launcher",
            common + "job_launcher.server_process_launcher.ServerProcessJobLauncher",
            {},
        ),
    ]
    server = {
        "admin_storage": "transfer",
        "max_num_clients": 100,
        "heart_beat_timeout": _HEARTBEAT,
        "admin_timeout": 10.0,
    }
    return {
        "class_allow_list": [classes.coordinator],
        "servers": [server],
        "snapshot_persistor": {
            "path": common + "state_persistors.storage_state_persistor.StorageStatePersistor",
            "args": {"uri_root": "/", "storage": {"path": storage, "args": snapshots}},
        },
        "components": [{"id": name, "path": path, "args": args} for name, path, args in parts],
    }


# Started and registered are what `Participant.ready` waits for; FLARE says them at INFO.
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line"},
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "line",
            "level": "WARNING",
            "filename": "log.txt",
            "maxBytes": 2**20,
            "backupCount": 3,
        },
    },
    "loggers": {
        "nvflare.fuel.hci.server.hci": {"level": "INFO"},
        "nvflare.private.fed.client.fed_client": {"level": "INFO"},
    },
    "root": {"level": "WARNING", "handlers": ["console", "file"]},
}
_UP: dict[Role, str] = {
    "coordinator": "Admin Server is started",
    "site": "Successfully registered client",
}


# --- processes ----------------------------------------------------------------------------------


class Participant:
    """A running coordinator or site.

    As a context it is stopped at the end, and when SIGTERM or SIGHUP ends this process.

    Parameters
    ----------
    kit
        Of the participant.
    process
        FLARE's parent of the jobs' processes.
    """

    def __init__(self, kit: Kit, process: "subprocess.Popen[bytes]") -> None:
        self.kit = kit
        self.process = process
        self._signals: dict[int, Any] = {}

    def ready(self, timeout: float = 60.0) -> None:
        """Wait until the coordinator listens, or the site is registered.

        Raises
        ------
        InputError
            It ended, or is not up in time; says why, as far as that is known.
        """
        end = time.monotonic() + timeout
        refused = None
        while time.monotonic() < end:
            log = self._log()
            if _UP[self.kit.role] in log:
                return
            if self.process.poll() is not None:
                break
            refused = _unreached(self.kit) if self.kit.role == "site" else None
            if refused is not None and refused.startswith("certificate"):
                break
            time.sleep(0.5)
        ended = self.process.poll() is not None
        state = "ended" if ended else f"is not up after {timeout:.0f} s"
        errors = [line for line in self._log().splitlines() if " ERROR " in line]
        why = refused or (_line(errors[-1].split(" ERROR ")[1]) if errors else "no error was told")
        message = f"{self.kit.name} {state}: {why}; see {self.kit.folder / 'log'}"
        raise InputError(message)

    def _log(self) -> str:
        return _console(self.kit).read_text(encoding="utf-8", errors="replace")

    def stop(self, timeout: float = 10.0) -> None:
        """End the process and all those of its jobs, whether or not it still runs.

        Parameters
        ----------
        timeout
            Seconds until what has not ended is killed.
        """
        end = time.monotonic() + timeout
        force = False
        while alive := _processes(self.kit.folder):
            for process in alive:
                with contextlib.suppress(_module("psutil").Error):
                    process.kill() if force else process.terminate()
            self.process.poll()  # or it stays a zombie
            force = time.monotonic() > end
            if time.monotonic() > end + 10.0:
                message = f"process {alive[0].pid} of {self.kit.name} does not end; end it by hand"
                raise InputError(message)
            time.sleep(0.1)
        self.process.wait()

    def wait(self) -> int:
        """Return code of the process, once it has ended."""
        return self.process.wait()

    def __enter__(self) -> "Participant":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._signals[number] = signal.signal(number, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        if self._signals:  # a second Ctrl-C would leave processes behind
            self._signals[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)
        try:
            self.stop()
        finally:
            for number, handler in self._signals.items():
                signal.signal(number, handler)


def start(
    kit: Path, environment: Mapping[str, str] | None = None, *, classes: Classes = CLASSES
) -> Participant:
    """A coordinator or site that has been started; it writes to ``kit/log``.

    Its processes are in a session of their own: Ctrl-C at a terminal does not reach them, so that
    whoever starts must stop (`Participant` is a context).

    Parameters
    ----------
    environment
        Variables that are added to those of this process.

    Raises
    ------
    InputError
        The folder is no such kit, it is running already, or a port is in use.
    """
    found = prepare(kit, classes=classes)
    if found.role == "administrator":
        message = f"{kit} is an administrator's kit; needed is a coordinator's or a site's"
        raise InputError(message)
    if alive := _processes(found.folder):
        message = f"{found.name} is running already: end process {alive[0].pid} before"
        raise InputError(message)
    if found.role == "coordinator":
        for port in _ports(found):
            _check_free(port)
    _console(found).parent.mkdir(mode=0o700, exist_ok=True)
    knobs = {"NVFLARE_DEAD_CLIENT_GRACE_PERIOD": str(_GRACE)}
    with _console(found).open("wb") as log:
        process = subprocess.Popen(
            _command(found.folder),
            cwd=found.folder,
            env={**os.environ, **knobs, **(environment or {}), _MARK: str(found.folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    return Participant(found, process)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _console(kit: Kit) -> Path:
    return kit.folder / "log" / "console.txt"


def _command(kit: Path) -> list[str]:
    """The line of FLARE's own script that begins the process."""
    script = (kit / "startup" / "sub_start.sh").read_text(encoding="utf-8")
    line = re.search(r"^\s*exec python3 (-u -m nvflare\..*)$", script, re.MULTILINE)
    if line is None:
        message = f"{kit}/startup/sub_start.sh is not of FLARE 2.9; provision again"
        raise InputError(message)
    words = [str(kit) if word == "$WORKSPACE" else word for word in shlex.split(line[1])]
    return [sys.executable, *words]


def _processes(kit: Path) -> list[Any]:
    """Running processes of a kit, by the variable that all of them inherit."""
    psutil = _module("psutil")
    found = psutil.process_iter(["environ", "status"])
    return [
        process
        for process in found
        if (process.info["environ"] or {}).get(_MARK) == str(kit)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _address(kit: Kit) -> tuple[str, int]:
    """Where a site or the coordinator has the coordinator."""
    name = "fed_server.json" if kit.role == "coordinator" else "fed_client.json"
    target = _read_json(kit.folder / "startup" / name)["servers"][0]["service"]["target"]
    host, _, port = target.rpartition(":")
    return host, int(port)


def _ports(kit: Kit) -> set[int]:
    server = _read_json(kit.folder / "startup" / "fed_server.json")["servers"][0]
    return {_address(kit)[1], int(server["admin_port"])}


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            message = f"port {port} cannot be had ({error.strerror}); end what listens there"
            raise InputError(message) from error


def _unreached(kit: Kit) -> str | None:
    """Why a site cannot have a connection to its coordinator, which it tries here."""
    host, port = _address(kit)
    startup = kit.folder / "startup"
    context = ssl.create_default_context(cafile=str(startup / "rootCA.pem"))
    context.check_hostname = False  # as FLARE, which looks at the name in the certificate itself
    context.load_cert_chain(startup / "client.crt", startup / "client.key")
    try:
        with (
            socket.create_connection((host, port), timeout=2.0) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):  # a coordinator that refuses says so now
                connection.recv(1)
    except ssl.SSLError as error:
        return f"certificate refused at {host}:{port} ({error.reason}): kits of two authorities?"
    except OSError as error:
        return f"no coordinator at {host}:{port} ({_line(error)})"
    return None


# --- jobs ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def session(kit: Path, timeout: float = 10.0) -> Iterator[Any]:
    """A session of the administrator with the coordinator.

    Raises
    ------
    InputError
        The folder is no administrator's kit, or there is no such session in time.
    """
    found = read_kit(kit, "administrator")
    admin = _read_json(found.folder / "startup" / "fed_admin.json")["admin"]
    api = _module("nvflare.fuel.flare_api.flare_api")
    loud = logging.getLogger("nvflare")
    level = loud.level
    loud.setLevel(logging.CRITICAL + 1)
    try:
        with (
            _said(f"no session with the coordinator at {admin['host']}:{admin['port']}"),
            _silence(),
        ):
            made = api.new_secure_session(found.name, str(found.folder), timeout=timeout)
        try:
            yield made
        finally:
            with contextlib.suppress(Exception), _silence():
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
    _write_json(folder / "meta.json", meta)
    for name, part in parts.items():
        _write_json(config / f"config_fed_{name}.json", {"format_version": 2, **part, **nothing})
    return folder


def submit(session: Any, job_folder: Path) -> str:
    """Name of the job that has been handed in. FLARE signs the folder's files in place."""
    with _said(f"the coordinator did not take {job_folder}"), _silence():
        return session.submit_job(str(job_folder.resolve()))


class Status(NamedTuple):
    """How a job is."""

    state: str
    """In FLARE's words: ``SUBMITTED``, ``RUNNING``, ``FINISHED:COMPLETED``, ..."""
    detail: str
    """What FLARE last said of its way to the sites: why it waits, who did not take it."""


def job_status(session: Any, job: str) -> Status:
    """How a job is."""
    with _said(f"no status of the job {job}"), _silence():
        meta = session.get_job_meta(job)
        said = meta.get("job_deploy_detail") or meta.get("schedule_history", [])[-1:]
        return Status(str(meta["status"]), _line("; ".join(said)))


def abort(session: Any, job: str) -> None:
    """End a job; nothing happens to one that has ended."""
    with _said(f"the job {job} has not been aborted"), _silence():
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
        with _said(f"no result of the job {job}"), _silence():
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
        message = f"{what}: {_line(error) or type(error).__name__}"
        raise InputError(message) from error


# --- files --------------------------------------------------------------------------------------


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _silence() -> contextlib.ExitStack:
    """FLARE prints."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def _read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".part")
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)


def _close(folder: Path) -> None:
    """Make a folder readable by its owner only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() or path.suffix == ".sh" else 0o600)


def _module(name: str) -> ModuleType:
    """FLARE is an extra, and brings the others: they are imported when they are first needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        message = f"there is no {error.name}: pip install 'expressway[federated]'"
        raise ImportError(message) from error
