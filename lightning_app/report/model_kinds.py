"""The kinds of models that a study compares."""

KINDS = {"joint": "joint model", "fixed": "fixed merge", "learned": "learned merge"}
"""What a row may be the best of, and its name in tables and pictures."""
