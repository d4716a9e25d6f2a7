"""The recipe: how it is read, composed and checked."""
