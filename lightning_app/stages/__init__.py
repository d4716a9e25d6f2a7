"""The typed stages of a run, and the graph that runs each of them once."""
