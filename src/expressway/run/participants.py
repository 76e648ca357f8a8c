"""Coordinators and sites on NVIDIA FLARE that run: how they are started, and stopped for good."""

import contextlib
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from expressway._errors import InputError

from .kits import CLASSES, Classes, Kit, Role, prepare
from .quietly import module, one_line, read_json

# Of the processes of a kit, jobs too: FLARE begins those in sessions of their own.
_MARK = "EXPRESSWAY_KIT"
# Seconds until a silent site is given up, which the coordinator's kit says, too.
_GRACE = 30
# What FLARE says, by the kit's own settings of its log.
# What FLARE prints goes here.
CONSOLE = Path("log/console.txt")
_UP: dict[Role, str] = {
    "coordinator": "Admin Server is started",
    "site": "Successfully registered client",
}


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
        state = "ended" if ended else "is not up" if refused else f"is not up after {timeout:.0f} s"
        errors = [line for line in self._log().splitlines() if " ERROR " in line]
        why = refused or (
            one_line(errors[-1].split(" ERROR ")[1]) if errors else "no error was told"
        )
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
                with contextlib.suppress(module("psutil").Error):
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
    check_idle(found)
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


def check_idle(kit: Kit) -> None:
    """Refuse a kit whose processes run.

    Raises
    ------
    InputError
        Says which one.
    """
    if alive := _processes(kit.folder):
        message = f"{kit.name} is running already: end process {alive[0].pid} before"
        raise InputError(message)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _console(kit: Kit) -> Path:
    return kit.folder / CONSOLE


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
    psutil = module("psutil")
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
    target = read_json(kit.folder / "startup" / name)["servers"][0]["service"]["target"]
    host, _, port = target.rpartition(":")
    return host, int(port)


def _ports(kit: Kit) -> set[int]:
    server = read_json(kit.folder / "startup" / "fed_server.json")["servers"][0]
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
        return f"no coordinator at {host}:{port} ({one_line(error)})"
    return None
