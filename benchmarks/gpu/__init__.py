"""Checks that only a GPU can make: it computes what the CPU does, training runs on it, and how fast."""

from benchmarks.gpu.without_datasets import stand_in_for_datasets

stand_in_for_datasets()  # before anything imports sentence-transformers
