import pytest

from expressway.io import InputError
from expressway.run import Checkpoint

RUN = {"design": "~ dex", "settings": {"alpha": 0.1}}


def refuse():
    msg = "computed again"
    raise AssertionError(msg)


def test_a_finished_stage_is_read_back(tmp_path):
    first = Checkpoint(tmp_path / "stages", RUN, resume=False)
    assert first.run("refit: means", lambda: {"x": 1.5}) == {"x": 1.5}
    again = Checkpoint(tmp_path / "stages", RUN, resume=True)
    assert again.run("refit: means", refuse) == {"x": 1.5}
    assert again.run("means", lambda: 2) == 2


def test_an_interrupted_stage_is_not(tmp_path):
    first = Checkpoint(tmp_path / "stages", RUN, resume=False)
    with pytest.raises(AssertionError):
        first.run("means", refuse)
    assert Checkpoint(tmp_path / "stages", RUN, resume=True).run("means", lambda: 3) == 3


def test_without_resume_everything_runs_again(tmp_path):
    Checkpoint(tmp_path / "stages", RUN, resume=False).run("means", lambda: 1)
    assert Checkpoint(tmp_path / "stages", RUN, resume=False).run("means", lambda: 2) == 2


def test_stages_of_another_run_are_refused(tmp_path):
    Checkpoint(tmp_path / "stages", RUN, resume=False)
    with pytest.raises(InputError, match="another run"):
        Checkpoint(tmp_path / "stages", RUN | {"design": "~ cell"}, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no stages"):
        Checkpoint(tmp_path, RUN, resume=False)
    assert (tmp_path / "mine.txt").is_file()


def test_removed_when_done(tmp_path):
    made = Checkpoint(tmp_path / "stages", RUN, resume=False)
    made.run("means", lambda: 1)
    made.remove()
    assert not (tmp_path / "stages").exists()
