"""What a command costs, children included.

A process starts with the peak memory of the one that made it, so that a large one cannot measure
a small one. This file is therefore run as a process of its own, without site-packages, between
the two: LIMIT LOG COMMAND...
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a process took from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Of the largest process, where there are several (MB of 10^6 bytes)."""


class Failed(Exception):
    """A command that ended badly, with the last that it printed."""


def measure(
    command: Sequence[str | Path], log: Path, limit: float, environment: Mapping[str, str]
) -> Cost:
    """Cost of a command, which prints into a log and may take so many seconds.

    Raises
    ------
    Failed
        It took longer, or its exit code is not 0.
    """
    between = [sys.executable, "-S", __file__, str(limit), str(log)]
    done = subprocess.run(
        [*between, *map(str, command)], stdout=subprocess.PIPE, env=environment, check=True
    )
    found = json.loads(done.stdout)
    code = found.pop("code")
    if found["wall_s"] >= limit:
        message = f"stopped after {limit:g} s"
        raise Failed(message)
    if code:
        said = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        message = f"exit code {code}: {' | '.join([line for line in said if line][-4:])}"
        raise Failed(message)
    return Cost(**found)


def main() -> None:
    """Run a command and print what it cost as a line of JSON."""
    limit, log, command = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with log.open("wb") as file:
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        timer = threading.Timer(limit, child.kill)
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        timer.cancel()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kB elsewhere
    found = {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * unit / 1e6,
        "code": os.waitstatus_to_exitcode(status),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
