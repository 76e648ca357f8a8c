import signal
import subprocess
import sys
import time

import pytest

from expressway.cli import ends

DESIGN = ["--design", "~ batch + condition"]
# Stages are printed as they begin: there is no bar where there is no terminal.
_STAGED = """
import sys
from expressway.cli import app
from expressway.cli import ends
inner = ends.progress
def loud(stages, check, quiet):
    from contextlib import contextmanager
    @contextmanager
    def wrapped():
        with inner(stages, check, quiet=quiet) as shown:
            def told(stage):
                print(stage, file=sys.stdout, flush=True)
                shown.watch(stage)
            yield shown._replace(watch=told)
    return wrapped()
ends.progress = loud
app(sys.argv[1:])
"""


@pytest.fixture
def start():
    started = []

    def popen(program, *arguments):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("stage", "delay", "number"),
    [
        pytest.param("reading", 0.0, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("gene-wise dispersions", 0.05, signal.SIGINT, marks=pytest.mark.slow),
        ("coefficients", 0.0, signal.SIGTERM),
        ("writing", 0.3, signal.SIGINT),
    ],
)
def test_an_interrupt_leaves_nothing(stage, delay, number, write, start, tmp_path):
    command = write()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "new" / "out"
    process = start(_STAGED, "de", *command, *DESIGN, "--out", out)
    for line in process.stdout:
        if line.strip() == stage:
            break
    time.sleep(delay)
    process.send_signal(number)
    process.send_signal(number)  # an impatient user
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error == "interrupted: nothing was written\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stage_without_a_share_is_part_of_the_one_before():
    with ends.progress({"counts": 1.0, "means": 1.0}, lambda: None) as shown:
        for stage in ("counts", "weights", "means", "refit: base means"):
            shown.watch(stage)
            shown.tell(1, 2)
