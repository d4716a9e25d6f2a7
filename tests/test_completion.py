"""The completion script knows every verb, and every key that a verb takes."""

import argparse
import subprocess
from pathlib import Path

import pytest

from lightning_app.__main__ import VERBS, main
from lightning_app.completion import command_parser
from tests.test_help import parsed_keys


def options_of(verb: str) -> set[str]:
    verbs = next(action for action in command_parser(VERBS)._actions if isinstance(action, argparse._SubParsersAction))
    assert list(verbs.choices) == list(VERBS)
    return {name for action in verbs.choices[verb]._actions for name in action.option_strings}


def test_every_key_is_completed() -> None:
    keys = {key for key in parsed_keys("fit") if not key.startswith(("recipes.", "merges."))}
    assert {f"--{key}" for key in keys} <= options_of("fit") and "--dry_run" in options_of("fit")
    assert {"--learn", "--density"} <= options_of("merge") and "--out" in options_of("init")
    assert options_of("doctor") == {"-h", "--help"}


def test_bash_completes_with_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    assert main(["--print_completion", "bash"]) == 0
    ask = 'COMP_WORDS=(lightning_app fit --model.m) COMP_CWORD=2; _shtab_lightning_app; echo "${COMPREPLY[@]}"'
    (tmp_path / "ask.bash").write_text(f"{capsys.readouterr().out}\n{ask}\n")
    done = subprocess.run(["bash", str(tmp_path / "ask.bash")], capture_output=True, text=True)
    assert done.stdout.split() == ["--model.method", "--model.mu"]
    assert main(["--print_completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef lightning_app")


def test_a_shell_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the extra completion is not installed")
    assert main(["--print_completion"]) == 2
    assert "'' is no shell; name one of bash, zsh" in capsys.readouterr().err
