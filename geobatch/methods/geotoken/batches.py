"""What a step of the alignment reads: a worker's part of a batch, from pictures or from a table of vectors, whole or in pieces.

Which rows a step takes, and how its pictures are changed, is a function of (seed, step, rank), and a piece can be asked for
twice: gradient caching does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geobatch.engine.geocode import Geocoder
from geobatch.engine.pixels import Pixels
from geobatch.engine.text import TextNetwork
from geobatch.errors import UserError
from geobatch.geo import point
from geobatch.methods.geotoken.align import Align, Batch
from geobatch.methods.geotoken.features import INDEX, Features
from geobatch.methods.geotoken.pack import Pictures


class Batches:
    """Batches of one worker.

    Args:
        config: how the encoder learns.
        folder: what `pack.pack` or `features.index` wrote.
        reads: how pictures become what the trunk reads.
        text: the text tower, or None.
        device: where batches go.
        towns: folder of the towns that captions speak of; None: those of the installed package.

    Raises:
        UserError: there are fewer pictures than a batch, or vectors are all there is and the encoder has to see pictures.
    """

    def __init__(
        self,
        config: Align,
        folder: Path,
        reads: Pixels,
        text: TextNetwork | None,
        device: torch.device,
        towns: Path | None = None,
    ) -> None:
        self.config, self.reads, self.text, self.device = config, reads, text, device
        self.data: Features | Pictures
        if (folder / INDEX).is_file():
            if not config.still:
                raise UserError(
                    "training from vectors takes a frozen encoder, heads without a grid, and no changes to pictures"
                )
            self.data = Features(folder, config.batch, config.buffer, config.seed)
        else:
            self.data = Pictures(folder, config.batch, config.clusters, config.window, config.seed)
        if len(self.data) < config.batch:
            raise UserError(f"{len(self.data)} training pictures are less than one batch; lower it from {config.batch}")
        self.geocoder = Geocoder.load(towns) if text is not None else None

    def __len__(self) -> int:
        """Pictures in all."""
        return len(self.data)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> Drawn:
        """A worker's part of a step's batch."""
        if isinstance(self.data, Features):
            rows = self.data.batch(step, rank, world)
            return Drawn(self, rows.places, rows.vectors, 0)
        mine = self.data.rows(step)[rank::world]
        seed = int(np.random.SeedSequence([self.config.seed, step, rank]).generate_state(1)[0])
        return Drawn(self, self.data.places[mine], mine, seed)


class Drawn:
    """A worker's part of a step's batch, not yet read."""

    def __init__(
        self, batches: Batches, places: NDArray[np.float64], source: NDArray[np.float32] | NDArray[np.int64], seed: int
    ) -> None:
        self._batches, self._places, self._source, self._seed = batches, places, source, seed

    def __len__(self) -> int:
        return len(self._places)

    def whole(self, rows: int | None = None) -> Batch:
        """All of it, or the first `rows`."""
        return self.piece(slice(0, len(self) if rows is None else rows))

    def pieces(self, size: int) -> list[slice]:
        """The slices that cut it into pieces of at most `size`."""
        return [slice(at, min(at + size, len(self))) for at in range(0, len(self), size)]

    def piece(self, rows: slice) -> Batch:
        """These rows, with pictures and captions; the same each time."""
        said = self._batches
        batch = self.labels(rows)._replace(seen=self._seen(rows).to(said.device))
        if said.text is None or said.geocoder is None or batch.towns is None:
            return batch
        towns = [said.geocoder[town] for town in batch.towns.tolist()]
        captions = [said.config.caption.format(city=town.city, state=town.state, country=town.country) for town in towns]
        read = said.text.tokens(captions) if said.config.lora_rank else (said.text.remember(captions),)
        return batch._replace(captions=tuple(each.to(said.device) for each in read))

    def labels(self, rows: slice = slice(None)) -> Batch:
        """These rows without pictures and captions: what the loss reads beside vectors."""
        said = self._batches
        latitude, longitude = self._places[rows].T
        points = torch.from_numpy(point.unit_vectors(latitude, longitude)).float()
        cells = said.config.gps_contrast.cells(latitude, longitude)
        towns = None if said.geocoder is None else torch.from_numpy(said.geocoder.nearest(latitude, longitude))
        degrees = torch.from_numpy(np.column_stack([latitude, longitude])).float()
        cells, towns = (None if each is None else each.to(said.device) for each in (cells, towns))
        return Batch(torch.empty(0), degrees.to(said.device), points.to(said.device), cells, towns)

    def _seen(self, rows: slice) -> Tensor:
        said = self._batches
        if isinstance(said.data, Features):
            return torch.from_numpy(self._source[rows])
        levels = torch.from_numpy(said.data.pictures[self._source[rows]]).to(said.device).permute(0, 3, 1, 2).float()
        if said.config.augment is not None:
            # A piece's changes are its own generator's; one of the whole batch would have to be run up to the piece.
            levels = said.config.augment(levels, torch.Generator().manual_seed(self._seed + rows.start))
        return said.reads.normalise(levels)
