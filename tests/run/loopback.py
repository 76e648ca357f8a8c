"""A project on this machine, for tests of its kits, processes and jobs."""

import socket

from expressway.run.kits import Classes
from expressway.run.projects import Member, Project

CLASSES = Classes("tiny.Site", "tiny.Coordinator")
ADMINISTRATOR = "admin@example.org"


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        return one.getsockname()[1], other.getsockname()[1]


def project(*sites: str, ports: tuple[int, int] = (8102, 8103)) -> Project:
    return Project(
        "trial",
        Member("localhost", "institute"),
        *ports,
        Member(ADMINISTRATOR, "institute"),
        tuple(Member(name, "hospital") for name in sites),
    )
