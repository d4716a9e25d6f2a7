"""The machine's processor, memory and accelerators."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Flags of processors, of x86 and of ARM, whose matrix products take bfloat16 as it is."""

DRIVERS = ("nvidia-smi", "rocm-smi", "xpu-smi")
"""Programs that come with the driver of an accelerator."""


@dataclass(frozen=True)
class Hardware:
    """The processor and the memory.

    Args:
        processor: its name.
        cores: that this process may use.
        load: programs that wanted a core in the last minute, on average.
        memory: bytes in all.
        free: bytes that a new process can have.
        native_bf16: whether the processor computes in bfloat16; else torch emulates it, which is slower than float32.
    """

    processor: str
    cores: int
    load: float
    memory: int
    free: int
    native_bf16: bool

    @classmethod
    def of_this_machine(cls) -> "Hardware":
        """Return those of this machine."""
        about, memory = _cpuinfo(), _meminfo()
        total = memory.get("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        flags = set(f"{about.get('flags', '')} {about.get('Features', '')}".split())
        return cls(
            about.get("model name") or platform.processor() or platform.machine(),
            usable_cores(),
            os.getloadavg()[0],
            total,
            memory.get("MemAvailable", total),
            bool(flags & BF16_FLAGS),
        )


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_driver() -> bool:
    """Return whether there is the driver of an accelerator, so that asking torch for its devices is worth the wait."""
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return apple or any(shutil.which(program) for program in DRIVERS)


def accelerators() -> list[str]:
    """Return the accelerators that torch sees, each with its memory where it has its own; imports torch.

    Raises:
        ImportError: torch cannot be imported.
    """
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        return [f"{device.name}, {device.total_memory / GIB:.0f} GiB" for device in found]
    return ["Apple GPU"] if torch.backends.mps.is_available() else []


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first core; empty elsewhere."""
    return dict(_fields(Path("/proc/cpuinfo")))


def _meminfo() -> dict[str, int]:
    """Return what Linux says of the memory, in bytes; empty elsewhere."""
    return {key: int(value.split()[0]) * 1024 for key, value in _fields(Path("/proc/meminfo"))}


def _fields(file: Path) -> list[tuple[str, str]]:
    """Return keys and values of the first paragraph of a file of Linux."""
    if not file.is_file():
        return []
    lines = file.read_text().split("\n\n")[0].splitlines()
    return [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
