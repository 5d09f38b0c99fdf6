"""MicroRecipe: everything that decides a micro search, as read from profiles/recipes/enas-micro-*.yaml."""

from dataclasses import dataclass
from typing import Literal

from ofa_kit.config import refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.plan import Stem
from ofa_kit.nas.enas.recipe import EnasRecipe


@dataclass(frozen=True, kw_only=True)
class MicroRecipe(EnasRecipe):
    """How cells are searched."""

    kind: Literal["micro"] = "micro"
    stem: Stem = "small-images"
    cells: int = 8
    """Of the child: 6 and the two that halve the size."""
    channels: int = 20
    """Channels of a node in the first cells; each reduction doubles them."""
    nodes: int = 5
    auxiliary_weight: float = 0.0
    """Weight of the loss of the child's auxiliary head; 0 = no such head."""
    network_cells: int = 17
    """Cells of the network that the genotype is for."""

    def check(self, source: str) -> None:
        super().check(source)
        refuse_below(1, self, ("cells", "channels", "nodes", "network_cells"), source)
        refuse_below(0, self, ("auxiliary_weight",), source)

    def child_shape(self, info: DatasetInfo) -> CellNetworkShape:
        """Return the child's shape on such data."""
        return self._shape(info, self.cells, self.channels)

    def network_shape(self, info: DatasetInfo) -> CellNetworkShape:
        """Return the shape of the network that the cells are for."""
        return self._shape(info, self.network_cells, self.network_channels)

    def _shape(self, info: DatasetInfo, cells: int, channels: int) -> CellNetworkShape:
        return CellNetworkShape(
            cells=cells,
            channels=channels,
            in_channels=info.in_channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
            stem=self.stem,
            layout="enas",
        )
