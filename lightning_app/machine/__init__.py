"""What the machine has: cores, memory, accelerators, installed packages, caches; no import here waits for torch."""
