"""The searches by the names that the command line knows."""

from typing import Literal

from ofa_kit.search.coarse_to_fine import CoarseToFine
from ofa_kit.search.evolution import Evolution
from ofa_kit.search.exact import Exact
from ofa_kit.search.guided import Guided
from ofa_kit.search.ladder import Searcher
from ofa_kit.search.local_search import LocalSearch
from ofa_kit.search.pareto import Pareto
from ofa_kit.search.random_search import RandomSearch

Algorithm = Literal["guided", "evolution", "coarse-to-fine", "pareto", "local", "exact", "random"]
DEFAULT: Algorithm = "guided"
ALGORITHMS: dict[Algorithm, Searcher] = {
    "guided": Guided(),
    "evolution": Evolution(),
    "coarse-to-fine": CoarseToFine(),
    "pareto": Pareto(),
    "local": LocalSearch(),
    "exact": Exact(),
    "random": RandomSearch(),
}
