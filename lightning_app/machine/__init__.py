"""The machine: cores, memory, accelerators, installed packages, caches; no import here waits for torch."""
