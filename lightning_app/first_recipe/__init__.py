"""A first recipe from data files and models: what they are, what fits them and the machine, and how it is written."""
