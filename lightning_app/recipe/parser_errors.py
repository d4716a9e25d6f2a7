"""Messages of jsonargparse in one line."""

import difflib
import re
from collections.abc import Iterable

import modules

KEY = re.compile(r'Parser key "([\w.]+)": ?')
UNKNOWN_KEY = re.compile(
    r"(?:Group '(?P<group>[\w.]+)' does not accept option|Option|Key|[Nn]ested key|[Uu]nrecognized arguments?:?) "
    r"'?-{0,2}(?P<key>[\w.]+)'?"
)
UNKNOWN_CLASS = re.compile(
    r"dot import path string: (\S+)|class_path '(\S+)':\s+(?:module '.*' has no attribute|No module named)"
)
FRAME = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Problem with given class_path",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)
"""What lines of a message begin with that say no more than the others."""

TOLD = re.compile(r"unknown key|there is no class|missing: ")
"""What is known to be wrong, where the other types of a union only say that they are not meant."""


def one_line(message: str, known: Iterable[str]) -> str:
    """Return the gist of one of jsonargparse's messages.

    Args:
        message: of several lines: the keys down to the wrong value, then what each type of a union has against it.
        known: names of all keys, for a hint.
    """
    if unknown := _unknown_key(message, list(known)):
        return unknown
    path = list(dict.fromkeys(KEY.findall(message)))
    lines = [_plain(line) for line in KEY.sub("", message).splitlines()]
    reasons = list(dict.fromkeys(line for line in lines if not line.startswith(FRAME) and "NoneType" not in line))
    if found := UNKNOWN_CLASS.search(message):
        reasons = [_unknown_class(found[1] or found[2])]
    elif told := [line for line in reasons if TOLD.search(line)]:
        reasons = told
    elif not any(", got " in line for line in reasons):
        given = [line.partition(": ")[2] for line in lines if line.startswith("Given value:")]
        reasons += [f"got {value}" for value in given[-1:] if "class_path" not in value]
    gist = ", ".join(filter(None, reasons)).replace(", expected ", " or ")
    if nested := re.match(r"([\w.]+): (?=expected)", gist):
        path, gist = [*path, nested[1]], gist[nested.end() :]
    return f"{'.'.join(path)}: {gist}"[:600] if path else gist[:600]


def _unknown_key(message: str, known: list[str]) -> str | None:
    """Return what to say of a key that does not exist, with the nearest one that does."""
    found = UNKNOWN_KEY.search(message)
    if not found or not re.search(r"not expected|[Uu]nrecognized|not accept|not found", message):
        return None
    name = f"{found['group']}.{found['key']}" if found["group"] else found["key"]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or difflib.get_close_matches(
        name.rsplit(".", 1)[-1], [key.rsplit(".", 1)[-1] for key in known], n=1
    )
    return f"unknown key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _unknown_class(name: str) -> str:
    """Return what to say of a class that does not exist."""
    near = difflib.get_close_matches(name.rpartition(".")[2], dir(modules), n=1)
    hint = f"did you mean 'modules.{near[0]}'?" if near else "give keys with values, or the path of a class"
    return f"there is no class '{name}'; {hint}"


def _plain(line: str) -> str:
    """Return a line without bullets, in the words of a recipe."""
    line = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line.strip(" -"))
    line = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", lambda found: found[1].replace("'", "").replace(", ", "|"), line)
    line = line.replace("the following arguments are required", "missing")
    return re.sub(r"^Expected an? ", "expected ", line).replace(". Got value: ", ", got ")


def key_of(message: str) -> str:
    """Return the dotted key that a message of `one_line` is about, empty if it names none."""
    found = re.match(r"(?:([\w. -]+): )?(?:unknown key '([\w.]+)')?", message)
    return ".".join(part for part in found.groups() if part) if found else ""
