"""Deployment on NVIDIA FLARE: kits of keys and settings.

A project has a coordinator (FLARE's server), sites (its clients) and an administrator (its admin,
of the role ``lead``). Each has a kit: a folder with a certificate of the project's own authority,
to which all connections are bound, and with settings under which a job is nothing but the two
classes of this package: no code travels, no shell command runs.
"""

import importlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expressway._errors import InputError

from .projects import AUTHORITY, Project
from .quietly import module, one_line, read_json, silence, write_json

SITE_CLASS = "expressway.federated.deployed.Site"
COORDINATOR_CLASS = "expressway.federated.deployed.Coordinator"
Role = Literal["coordinator", "site", "administrator"]
# At once, at one coordinator.
RUNS = 4

_AUTHORITY_README = (
    "root.key is the private key of this project's authority. Only whoever adds sites later needs "
    "it: keep it offline, and never send it to anyone.\n"
)
_README = """\
{project}: kit of {name} ({role})

This folder is for whoever runs {name}, and for nobody else.
{key} is a private key: whoever has it can be {name}.
It must stay secret; send it by a way that nobody else can read.

Look into these before you start it:

  local/roster.json      who takes part
{resources}
Start it (KIT is this folder) by

  expressway federated {command}

All options are in: expressway federated {verb} --help
"""
_RESOURCES = """\
  local/resources.json   which code a run may have: class_allow_list; it is
                         written anew at every start
"""
# What starts it.
_STARTED: dict[Role, str] = {
    "coordinator": "coordinator KIT",
    "site": "site KIT --data DIR",
    "administrator": "run KIT --design FORMULA --contrast FACTOR LEVEL REFERENCE --out DIR",
}
# Of a folder of FLARE's: the settings, certificates and keys. Its scripts start it without ours.
_NEEDED = {".json", ".crt", ".key", ".pem"}
# Seconds until a silent site is given up; sites are heard every 10 (nvflare, client_train.py).
_HEARTBEAT = 30
# Looked for sites that a run waits for every 2 s; a run whose administrator is gone ends after 120.
_SCHEDULE = {"min_schedule_interval": 2.0, "max_schedule_interval": 2.0, "max_schedule_count": 60}
# What the administrator may do (nvflare, private/fed/server/job_cmds.py and training_cmds.py).
_RIGHTS = ("submit_job", "list_jobs", "get_job_meta", "abort_job", "download_job", "check_status")


class Classes(NamedTuple):
    """What a job is made of: paths of classes."""

    site: str = SITE_CLASS
    """An Executor."""
    coordinator: str = COORDINATOR_CLASS
    """A Controller."""


CLASSES = Classes()


class Kit(NamedTuple):
    """A folder of keys and settings of one participant."""

    folder: Path
    role: Role
    name: str
    project: str
    coordinator: str
    sites: tuple[str, ...]


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
    authority = out / AUTHORITY
    known = read_json(authority / "project.json")
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
        roles = dict(_roles(project))
        for name in sorted(names):
            shutil.move(made / name, kits / name)
            _furnish(kits / name, roles[name], name, project.name)
        (kits / AUTHORITY).mkdir()
        for name, text in {**root, "readme.txt": _AUTHORITY_README}.items():
            (kits / AUTHORITY / name).write_text(text)
        everyone = sorted(names | set(known.get("names", [])))
        write_json(kits / AUTHORITY / "project.json", {"project": whole, "names": everyone})
        _close(kits)
        if not out.exists():
            kits.rename(out)
        else:
            for name in names:
                (kits / name).rename(out / name)
            (kits / AUTHORITY / "project.json").replace(authority / "project.json")
    for name, role in roles.items():
        if (out / name).is_dir():
            write_json(out / name / "local" / "roster.json", _roster(project, role, name))
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
    entity, impl = module("nvflare.lighter.entity"), "nvflare.lighter.impl."
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
        module(impl + "workspace").WorkspaceBuilder(template_file=["master_template.yml"]),
        module(impl + "static_file").StaticFileBuilder(config_folder="config"),
        module(impl + "cert").CertBuilder(),
        module(impl + "signature").SignatureBuilder(),
    ]
    with silence():
        provisioner = module("nvflare.lighter.provisioner").Provisioner(str(folder), builders)
        result = provisioner.provision(made)
    if result.get(module("nvflare.lighter.constants").CtxKey.BUILD_ERROR):
        message = f"FLARE made no kits: {one_line('; '.join(result.get_errors()))}"
        raise InputError(message)
    if old:
        root = {name: (authority / name).read_text() for name in ("root.pem", "root.key")}
    else:
        state = read_json(Path(result.get_state_dir()) / "cert.json")
        root = {"root.pem": state["root_cert"], "root.key": state["root_pri_key"]}
    return Path(result["current_prod_dir"]), root


def _furnish(kit: Path, role: Role, name: str, project: str) -> None:
    """Take from a kit of FLARE's what our commands do not need, and say what it is."""
    for path in [path for path in kit.rglob("*") if path.is_file()]:
        if path.parent.name != "startup" or path.suffix not in _NEEDED:
            path.unlink()
    text = _README.format(
        name=name,
        role=role,
        project=project,
        key="startup/server.key" if role == "coordinator" else "startup/client.key",
        resources="" if role == "administrator" else _RESOURCES,
        command=_STARTED[role],
        verb=_STARTED[role].split()[0],
    )
    (kit / "readme.txt").write_text(text, encoding="utf-8")


def _close(folder: Path) -> None:
    """Make a folder readable by its owner only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


# --- settings -----------------------------------------------------------------------------------


def read_kit(kit: Path, role: Role) -> Kit:
    """What a kit is, which must be of a role.

    Raises
    ------
    InputError
        The folder is no kit, or one of another role.
    """
    roster = read_json(kit / "local" / "roster.json")
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
    found = read_kit(kit, read_json(kit / "local" / "roster.json").get("role", "site"))
    if found.role == "administrator":
        return found
    local = found.folder / "local"
    own = _site(classes) if found.role == "site" else _coordinator(found.folder, classes)
    common = {"format_version": 2, "class_list_enforcement_mode": "enforce"}
    write_json(local / "resources.json", {**common, "allow_log_streaming": False, **own})
    rights = dict.fromkeys(_RIGHTS, "any")
    write_json(
        local / "authorization.json", {"format_version": "1.0", "permissions": {"lead": rights}}
    )
    write_json(local / "log_config.json", _LOGGING)
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
            {"max_jobs": RUNS, **_SCHEDULE},
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


# Started and registered are what `participants` waits for; FLARE says them at INFO.
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
        # The first messages of a run may come before the site's process takes any.
        "nvflare.private.aux_runner": {"level": "CRITICAL"},
        # `flare.failed_site` reads who failed.
        "nvflare.private.fed.server.fed_server": {"level": "INFO"},
        "nvflare.fuel.hci.server.hci": {"level": "INFO"},
        "nvflare.private.fed.client.fed_client": {"level": "INFO"},
    },
    "root": {"level": "WARNING", "handlers": ["console", "file"]},
}
