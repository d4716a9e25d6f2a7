"""The help has every key that the parser takes, and fits on a few screens."""

import re

import pytest

from lightning_app.__main__ import main
from lightning_app.recipe.command_line import VERBS
from lightning_app.recipe.recipe_help import LENGTH, WIDTH, help_text
from lightning_app.recipe.recipe_keys import keys_of
from lightning_app.recipe.recipe_parser import make_parser, parse
from lightning_app.recipe.recipe_schema import SECTIONS
from modules.losses import LOSSES


def parsed_keys(verb: str = "fit") -> list[str]:
    """All keys of the parser, those of named entries included."""
    parser = make_parser(verb)
    keys = [a.dest for a in parser._actions if a.dest not in parser.groups and not a.dest.endswith(".help")]
    named = {name: section for name, section in SECTIONS.items() if section.named}
    found = [key for key in keys if key not in named]
    for name, section in named.items():
        entry = type(parser)(add_help=False)
        entry.add_class_arguments(section.owner, "entry", fail_untyped=False)
        found += [
            action.dest.replace("entry.", f"{name}.")
            for action in entry._actions
            if re.fullmatch(r"entry\.(?!help)\w+", action.dest)
        ]
    return found


def mentioned(text: str) -> set[str]:
    """Every word of the help, with the section it is under before it; words of no section by themselves."""
    found, section = set(), ""
    for line in text.splitlines():
        if head := re.match(r"(\w+)(\.NAME)?: ", line):
            section = head[1]
        words = re.findall(r"[\w.]+", line)
        found |= {*words, *(f"{section}.{word}" for word in words)}
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_the_overview_has_every_key_and_is_short(verb: str) -> None:
    text = help_text(verb)
    lines = text.splitlines()
    assert len(lines) <= LENGTH
    assert max(map(len, lines)) <= WIDTH
    keys = parsed_keys(verb)
    assert len(keys) > 100
    assert not set(keys) - mentioned(text)
    assert all(name in text for name in ("modules.SphericalMean", "modules.CmaEs", *LOSSES))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_whole(section: str) -> None:
    text = help_text("fit", section)
    assert max(map(len, text.splitlines())) <= WIDTH
    keys = [key for key in parsed_keys() if key.startswith(f"{section}.")]
    assert keys and not set(keys) - mentioned(text)
    words = " ".join(text.split())
    for key in keys_of(SECTIONS[section].owner, SECTIONS[section].skipped):
        assert key.text, f"{section}.{key.name} says nothing"
        assert key.text in words


def test_keys_of_keys_are_shown() -> None:
    text = help_text("fit", "recipes")
    assert all(re.search(rf"^ +{key}: ", text, re.MULTILINE) for key in ("source", "columns", "temperature"))


def test_help_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, section in ((["--help"], ""), (["-h"], ""), (["--help", "model"], "model"), (["--help=mteb"], "mteb")):
        with pytest.raises(SystemExit) as end:
            parse("fit", words)
        assert end.value.code == 0
        assert capsys.readouterr().out.rstrip("\n") == help_text("fit", section)


def test_the_help_of_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(re.search(rf"^  {verb} +\w", text, re.MULTILINE) for verb in (*VERBS, "evaluate", "merge"))
