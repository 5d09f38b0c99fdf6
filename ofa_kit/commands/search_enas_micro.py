"""search enas --kind micro: two cells, searched by a controller whose samples share the weights of one child."""

from ofa_kit import storage
from ofa_kit.commands.cells_found import CellsFound, finished, read_found
from ofa_kit.commands.search_enas_images import ARC, ImageSearch
from ofa_kit.data.dataset import Dataset
from ofa_kit.nas.cells.arc import MICRO_OPERATIONS, write_arc
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.measured import MeasuredLatency, measure_latency
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.micro_search import MicroSearch
from ofa_kit.nas.run import WorkFolder
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter
from ofa_kit.training.distributed import Team

Work = WorkFolder[MicroRecipe]


class MicroImages(ImageSearch[MicroRecipe, Genotype, MeasuredLatency, CellsFound]):
    """Cells."""

    recipe, timed = MicroRecipe, "operations"

    def about(self, recipe: MicroRecipe) -> str:
        return f"cells of {recipe.nodes} nodes by ENAS: {recipe.cells} cells, {recipe.channels} channels"

    def measure(self, work: Work, times: Times, reporter: Reporter) -> MeasuredLatency:
        shape, nodes = work.recipe.network_shape(work.info), work.recipe.nodes
        return measure_latency(times, shape, nodes, MICRO_OPERATIONS, reporter, joined="unused")

    def begun(self, work: Work, dataset: Dataset, team: Team, measured: MeasuredLatency | None) -> MicroSearch:
        return MicroSearch(work.recipe, dataset, work.folder, team.device, measured.latency if measured else None)

    def finished(
        self, work: Work, arch: Genotype, epochs: int, measured: MeasuredLatency | None, reporter: Reporter
    ) -> CellsFound:
        storage.write_text(work.folder / ARC, write_arc(arch) + "\n")
        shape = work.recipe.network_shape(work.info)
        return finished(work.folder, shape, arch, epochs, reporter, device=work.recipe.device, predicted=measured)

    def found(self, work: Work) -> CellsFound:
        return read_found(work.folder, work.recipe.network_shape(work.info))
