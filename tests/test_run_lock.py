"""Two runs in one folder."""

from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_app.__main__ import main
from lightning_app.stages.run_lock import locked
from modules import UserError
from tests.conftest import Project


def test_the_second_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match="by another run .process [0-9]+.: wait for it, .* own with --run_dir$")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"), locked(tmp_path / "other"):
        pass


def test_a_file_is_no_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        refused = pytest.raises(UserError, match=r"cannot be written \(.*\): name another folder with --run_dir$")
        with refused, locked(tmp_path / place):
            pass


def test_other_processes_of_a_run_are_not_locked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with locked(tmp_path):
            pass


@pytest.mark.parametrize("verb", ["fit", "study"])
def test_verbs_that_write_say_it_in_one_line_and_change_nothing(
    project: Project, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    with locked(project.run_dir):
        assert main([verb, "--config", str(project.recipe), "--fresh", "--mteb.tasks=[PythonDocsSTS]"]) == 2
        assert capsys.readouterr().err.count("error: ") == 1
        assert [path.name for path in project.run_dir.iterdir()] == [".lock"]
