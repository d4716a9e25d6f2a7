"""Saved models in the libraries of another time."""
