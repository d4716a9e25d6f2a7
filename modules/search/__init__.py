"""Ways to search the numbers of a position: one file and one class each."""

from modules.search.adam import Adam
from modules.search.bfgs import Bfgs
from modules.search.cma_es import CmaEs
from modules.search.search import Search

__all__ = ["Adam", "Bfgs", "CmaEs", "Search"]
