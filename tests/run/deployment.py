"""A deployment on this machine by the commands a user types: a coordinator, three sites."""

import contextlib
import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from expressway import datasets

SITES = ("cheung", "montgomery", "pickrell")
COORDINATOR, ADMINISTRATOR = "localhost", "admin@example.org"
DESIGN = ("--design", "~ batch + condition", "--min-samples", "1", "--figures", "")
PROJECT = """
name: trial
coordinator: {{name: localhost, organization: institute, port: {0}, admin_port: {1}}}
administrator: {{name: admin@example.org, organization: institute}}
sites:
  - {{name: cheung, organization: hospital_a}}
  - {{name: montgomery, organization: hospital_b}}
  - {{name: pickrell, organization: hospital_c}}
"""


def expressway(*words: object) -> list[str]:
    """The words of a command."""
    return [sys.executable, "-m", "expressway", *map(str, words)]


class Deployment:
    """Kits, data and running commands in a folder.

    Parameters
    ----------
    options
        Of ``expressway federated site``.
    """

    def __init__(self, folder: Path, ports: tuple[int, int], genes: int, *options: str) -> None:
        self.folder, self.kits, self.data = folder, folder / "kits", folder / "data"
        self._options = options
        self.commands: dict[str, subprocess.Popen[str]] = {}
        project = folder / "project.yml"
        project.write_text(PROJECT.format(*ports))
        done = self.do("federated", "provision", project, "--out", self.kits)
        assert done.returncode == 0, done.stderr
        adata = datasets.simulate(genes=genes, samples=36, batches=3, outliers=5, seed=5)
        for k, name in enumerate(SITES):
            (self.data / name).mkdir(parents=True)
            adata[np.arange(36) % 3 == k].copy().write_h5ad(self.data / name / "site.h5ad")

    def do(self, *words: object, seconds: float = 240.0) -> "subprocess.CompletedProcess[str]":
        """A command and what it said."""
        return subprocess.run(
            expressway(*words),
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
        )

    def start(self, *names: str) -> None:
        """Start participants, and wait until they are up."""
        for name in names:
            words: list[object] = ["federated", "coordinator", self.kits / name]
            if name in SITES:
                words = ["federated", "site", self.kits / name, "--data", self.data / name]
                words += self._options
            self.commands[name] = subprocess.Popen(
                expressway(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        for name in names:
            out = self.commands[name].stdout
            assert out is not None
            line = out.readline()
            assert "Ctrl-C ends it" in line, line + out.read()

    def stop(self, *names: str) -> None:
        """End commands as a user does."""
        for name in names:
            self.commands[name].terminate()
        for name in names:
            self.commands.pop(name).communicate(timeout=40)

    def run(self, out: str, *options: str) -> "subprocess.Popen[str]":
        """Begin a run."""
        kit = self.kits / ADMINISTRATOR
        words = expressway("federated", "run", kit, *DESIGN, "--out", self.folder / out, *options)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def simulated(self, out: str, *options: str) -> Path:
        """Folder of the same analysis in one process."""
        folder = self.folder / out
        done = self.do("federated", "simulate", self.data, *DESIGN, "--out", folder, *options)
        assert done.returncode == 0, done.stderr
        return folder

    def processes(self, name: str, *, jobs: bool = False) -> list[psutil.Process]:
        """Of a participant, or of its run only."""
        kit, found = str(self.kits / name), []
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            if (process.info["environ"] or {}).get("EXPRESSWAY_KIT") != kit:
                continue
            line = " ".join(process.info["cmdline"] or [])
            if process.info["status"] != "zombie" and (not jobs or "_process " in line):
                found.append(process)
        return found

    def send(self, name: str, number: int, *, jobs: bool = False) -> None:
        """Send a signal to processes of a participant."""
        for process in self.processes(name, jobs=jobs):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def disclosed(self, name: str) -> list[dict[str, str]]:
        """Messages that left a site."""
        path = self.kits / name / "disclosure.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["what"] == "message"]

    def wait_for(self, stage: str, since: int, seconds: float = 120.0) -> None:
        """Wait until a site has answered in a stage; messages before ``since`` are of others."""
        end = time.monotonic() + seconds
        while not any(row["stage"] == stage for row in self.disclosed(SITES[0])[since:]):
            assert time.monotonic() < end, stage
            time.sleep(0.02)


@contextlib.contextmanager
def deployed(
    folder: Path, ports: tuple[int, int], genes: int, *options: str
) -> Iterator[Deployment]:
    """A deployment that is up; ended with all its processes."""
    found = Deployment(folder, ports, genes, *options)
    try:
        found.start(COORDINATOR)
        found.start(*SITES)
        yield found
    finally:
        for name, command in found.commands.items():
            command.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.communicate(timeout=40)
            found.send(name, signal.SIGKILL)
        left = [p for name in (COORDINATOR, *SITES) for p in found.processes(name)]
        gone, alive = psutil.wait_procs(left, 10)
        assert not alive, (gone, alive)
