"""The application: from a recipe to one merged, scored embedding model."""
