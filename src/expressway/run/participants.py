"""Coordinators and sites on NVIDIA FLARE that run: how they are started, and stopped for good."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cryptography import x509

from expressway._errors import InputError

from .certificates import Certified
from .kits import CLASSES, Classes, Kit, Role, prepare
from .quietly import module, one_line, read_json

# Of the processes of a kit, jobs too: FLARE begins those in sessions of their own.
_MARK = "EXPRESSWAY_KIT"
# Seconds until a silent site is given up, which the coordinator's kit says, too.
_GRACE = 30
# What FLARE prints since the last start goes here, and what it printed before there.
CONSOLE, _OLD = Path("log/console.txt"), Path("log/console.old.txt")
# FLARE's names of runs, of which it leaves folders.
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What FLARE says, by the kit's own settings of its log.
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
        start = time.monotonic()
        refused = None
        while time.monotonic() < start + timeout:
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
        state = "ended" if ended else f"is not up after {time.monotonic() - start:.0f} s"
        why = refused or _error(self._log()) or "no error was told"
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

    Folders that FLARE left of earlier runs are removed, and ``log/console.txt`` of the last start
    becomes ``log/console.old.txt``.

    Its processes are in a session of their own: Ctrl-C at a terminal does not reach them, so that
    whoever starts must stop (`Participant` is a context).

    Parameters
    ----------
    environment
        Variables that are added to those of this process.

    Raises
    ------
    InputError
        The folder is no such kit, its keys are not its own or not valid now, it is running already,
        or a port is in use.
    """
    found = prepare(kit, classes=classes)
    if found.role == "administrator":
        message = f"{kit} is an administrator's kit; needed is a coordinator's or a site's"
        raise InputError(message)
    check_keys(found)
    check_idle(found)
    if found.role == "coordinator":
        for port in _ports(found):
            _check_free(port)
    _tidy(found.folder)
    knobs = {"NVFLARE_DEAD_CLIENT_GRACE_PERIOD": str(_GRACE)}
    with _console(found).open("wb") as log:
        process = subprocess.Popen(
            _command(found),
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


def check_keys(kit: Kit) -> None:
    """Refuse a kit with keys of another participant, or with certificates that are not valid now.

    Raises
    ------
    InputError
        Says what is wrong with which file.
    """
    own, key, root = _keys(kit)
    Certified(own, key, root)
    subject = _subject(own, x509.NameOID.COMMON_NAME)
    if subject != kit.name:
        message = (
            f"{own} is the certificate of {subject}, not of {kit.name}; use the files of one kit"
        )
        raise InputError(message)
    now = datetime.now(UTC)
    for path in (own, root):
        found = x509.load_pem_x509_certificate(path.read_bytes())
        if now > found.not_valid_after_utc:
            message = (
                f"{path} expired on {found.not_valid_after_utc:%Y-%m-%d}; ask the project's lead "
                "for new kits"
            )
            raise InputError(message)
        if now < found.not_valid_before_utc:
            begins = f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            message = f"{path} is not valid before {begins}; set the clock of this machine"
            raise InputError(message)


def _keys(kit: Kit) -> tuple[Path, Path, Path]:
    """Certificate, key and certificate of the authority."""
    startup = kit.folder / "startup"
    name = "server" if kit.role == "coordinator" else "client"
    return startup / f"{name}.crt", startup / f"{name}.key", startup / "rootCA.pem"


def _subject(certificate: Path, what: x509.ObjectIdentifier) -> str:
    """A part of whom a certificate is of."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return ", ".join(str(one.value) for one in found.subject.get_attributes_for_oid(what))


def _tidy(kit: Path) -> None:
    """Remove FLARE's folders of earlier runs, and make room for a log."""
    # Of jobs, too: who asked for their results has fetched them or gone.
    for parent in (kit, kit / "transfer", kit / "jobs"):
        for path in parent.iterdir() if parent.is_dir() else ():
            if _RUN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
    (kit / CONSOLE).parent.mkdir(mode=0o700, exist_ok=True)
    if (kit / CONSOLE).is_file():
        (kit / CONSOLE).replace(kit / _OLD)


def _error(log: str) -> str | None:
    """Why a process ended, from a log of FLARE's: what was raised last, or else the last error."""
    _, raised, rest = log.rpartition("Traceback (most recent call last):")
    found = re.search(r"^(?![\d-]+ [\d:,]+ )\S.*$", rest, re.MULTILINE) if raised else None
    if found is None:
        found = next(reversed([*re.finditer(r"(?<= ERROR ).*$", log, re.MULTILINE)]), None)
    return None if found is None else one_line(found[0]).rstrip(".")


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _console(kit: Kit) -> Path:
    return kit.folder / CONSOLE


def _command(kit: Kit) -> list[str]:
    """What begins the process: the line of FLARE's own script (2.9, sub_start.sh)."""
    side = "server" if kit.role == "coordinator" else "client"
    organization = _subject(_keys(kit)[0], x509.NameOID.ORGANIZATION_NAME)
    named = [f"uid={kit.name}"] if kit.role == "site" else []
    return [
        *(sys.executable, "-u", "-m", f"nvflare.private.fed.app.{side}.{side}_train"),
        *("-m", str(kit.folder), "-s", f"fed_{side}.json"),
        *("--set", "secure_train=true", *named, f"org={organization}", "config_folder=config"),
    ]


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
    own, key, root = _keys(kit)
    context = ssl.create_default_context(cafile=str(root))
    context.check_hostname = False  # as FLARE, which looks at the name in the certificate itself
    context.load_cert_chain(own, key)
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
