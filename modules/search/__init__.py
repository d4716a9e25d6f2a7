"""Ways to search the numbers of a position: one file and one class each."""

from modules.search.adam import Adam
from modules.search.base import Search
from modules.search.bfgs import Bfgs
from modules.search.cma_es import CmaEs

__all__ = ["Adam", "Bfgs", "CmaEs", "Search"]
