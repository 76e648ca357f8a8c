"""Who takes part in an analysis on NVIDIA FLARE, as its project's file says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expressway._errors import InputError

from .quietly import module, one_line

AUTHORITY = "authority"
"""A folder beside the kits."""


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


def read_project(path: Path) -> Project:
    """A project from its YAML file.

    Raises
    ------
    InputError
        No such file; a key is unknown or missing; names are repeated or not as FLARE needs them;
        fewer than two sites.
    """
    try:
        content = module("yaml").safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); name the project's YAML file"
        raise InputError(message) from error
    except (ValueError, module("yaml").YAMLError) as error:
        message = f"{path} is no YAML: {one_line(error)}"
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
    seen = {AUTHORITY, "server"}  # a folder beside the kits; how FLARE calls the coordinator
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
    check = module("nvflare.apis.utils.format_check").name_check
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
