"""The precisions that a model can compute in."""

PRECISIONS = ("float32", "bfloat16")
"""bfloat16 is by autocast, the weights stay as they are."""
