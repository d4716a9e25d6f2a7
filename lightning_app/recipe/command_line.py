"""The words after a verb: recipes, keys with their values, and what is asked to be printed."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from modules.errors import UserError

VERBS = {
    "fit": "train the experts, learn the position, score everything on MTEB tasks, write the merged model",
    "validate": "loss of a position on the probe-validation rows",
    "test": "scores of the run's model, a checkpoint or a folder on the recipe's MTEB tasks",
    "predict": "embeddings of a text file, as safetensors",
    "study": "the comparison before trusting a merge: all baselines, sweeps, pictures, a report: study --config quick",
}
"""The verbs that read a recipe, and what they do."""


@dataclass
class CommandLine:
    """The words after a verb, taken apart.

    Args:
        recipes: values of ``--config``, in order.
        keys: dotted key and value of every other option, in order.
        help: the section that ``--help SECTION`` asks about, empty for ``--help`` alone; None: nothing is asked.
        print_config: whether the whole recipe is to be printed.
    """

    recipes: list[str] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)
    help: str | None = None
    print_config: bool = False


def read_command_line(words: list[str], flags: Collection[str]) -> CommandLine:
    """Read the words after a verb.

    Args:
        words: ``--key value`` or ``--key=value``.
        flags: keys that may stand alone, which means true.

    Raises:
        UserError: a word is no key, or a key has no value.
    """
    line, left = CommandLine(), deque(words)
    while left:
        word = left.popleft()
        option, equals, value = word.partition("=")
        if option in ("-h", "--help"):
            line.help = value if equals or not _has_value(left) else left.popleft()
        elif option == "--print_config":
            line.print_config = True
        elif not option.startswith("--") and option != "-c":
            raise UserError(f"'{word}' is no key; keys are given as --key value")
        else:
            key = option.removeprefix("--")
            if not equals:
                value = _value(key, left, key in flags)
            if key in ("config", "-c"):
                line.recipes.append(value)
            else:
                line.keys.append((key, value))
    return line


def _has_value(left: deque[str]) -> bool:
    return bool(left) and not left[0].startswith("--")


def _value(key: str, left: deque[str], is_flag: bool) -> str:
    """Take the value of a key off the words that are left."""
    if is_flag and not (left and left[0] in ("true", "false")):
        return "true"
    if not _has_value(left):
        raise UserError(f"--{key} needs a value; one that starts with -- is given as --{key}=VALUE")
    return left.popleft()
