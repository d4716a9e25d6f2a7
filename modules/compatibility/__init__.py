"""Compatibility of models: their differences, and the effect and the remedy of each."""
