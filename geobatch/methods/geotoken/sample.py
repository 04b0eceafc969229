"""The stage that reads an image's vector and neighbours and draws candidates.

The network takes `Sampling.batch` images at a time, always the same ones together for the same table: the stage cuts the
table itself. Each image's draws depend on its id and the seed only (`draws`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import Rejection, UserError
from geobatch.methods.geotoken.config import Sampling
from geobatch.methods.geotoken.draws import Draws, shared
from geobatch.methods.geotoken.inputs import Context, context, places_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.tables import column, padded
from geobatch.schema import CANDIDATES
from geobatch.stage import Stage, rejected


class Sample(Stage):
    """Vectors and neighbours -> distinct candidates, best first, each with how many of the K draws it is.

    Reads `image_id`, `vector` (list of V·D float32), `neighbours` and `neighbour_vectors` (list of M'·V·D float32, in
    the order of `neighbours`). A neighbour without a place counts as missing. An image whose vector is missing or not
    finite is rejected: it would get a place that says nothing.

    Args:
        model: a model, or the folder one was saved in.
        device: where it runs.
    """

    drops = ("neighbour_vectors",)
    adds = (pa.field("candidates", CANDIDATES),)

    def __init__(self, model: GeoTokenModel | Path | str, sampling: Sampling | None = None, device: str = "cpu") -> None:
        loaded = model if isinstance(model, GeoTokenModel) else GeoTokenModel.load(Path(model))
        self.model = loaded.to(device).eval()
        self.sampling = sampling or Sampling()
        self.device = device

    def work(self, table: pa.Table) -> pa.Table:
        """See the class.

        Raises:
            UserError: vectors of another length than the model's.
        """
        parts = [self._part(table.slice(at, self.sampling.batch)) for at in range(0, len(table), self.sampling.batch)]
        return pa.concat_tables(parts)

    def _part(self, table: pa.Table) -> pa.Table:
        queries, sound = self._vectors(table)
        columns = [pa.nulls(len(table), field.type) for field in self.adds]
        if sound.any():
            living = table.filter(pa.array(sound))
            draws = shared(
                self.model,
                self._context(living, queries[sound]).to(self.device),
                living["image_id"].to_pylist(),
                samples=self.sampling.samples,
                temperature=self.sampling.temperature,
                seed=self.sampling.seed,
            )
            columns = _lists(draws, self.model, np.flatnonzero(sound), len(table))
        for field, values in zip(self.adds, columns, strict=True):
            table = table.append_column(field, values)
        fate = Rejection("failed", "the image's vector is missing or not finite")
        return rejected(table, "sample", dict.fromkeys(np.flatnonzero(~sound).tolist(), fate))

    def _vectors(self, table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """(N, V·D), and which rows can be used."""
        config = self.model.config
        width = len(config.views) * config.vector_size
        lists = column(table, "vector")
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
        if np.any((lengths != 0) & (lengths != width)):
            raise UserError(
                f"image vectors are {int(lengths.max())} long, the model reads {width}; "
                "use the encoder that the model was trained with"
            )
        values = padded(lists, np.nan).astype(np.float32)
        if not values.shape[1]:
            values = np.full((len(table), width), np.nan, np.float32)
        return values, np.asarray(np.isfinite(values).all(axis=1))

    def _context(self, table: pa.Table, queries: npt.NDArray[np.float32]) -> Context:
        config = self.model.config
        latitude, longitude = (padded(column(table, "neighbours", name), np.nan) for name in ("latitude", "longitude"))
        count, width = min(latitude.shape[1], config.neighbours), queries.shape[1]
        flat = padded(column(table, "neighbour_vectors"), np.nan).astype(np.float32)
        near = np.full((len(table), count * width), np.nan, np.float32)
        near[:, : flat.shape[1]] = flat[:, : count * width]
        near = near.reshape(len(table), count, width)
        lost = ~np.isfinite(near).all(axis=2)
        latitude = np.where(lost, np.nan, latitude[:, :count])
        return context(config, queries, near, latitude, longitude[:, :count])


def _lists(draws: Draws, model: GeoTokenModel, rows: npt.NDArray[np.intp], images: int) -> list[pa.Array]:
    """The column `candidates` (best first) of a table of `images` rows, null in all but `rows`."""
    row, score = rows[draws.image_R.cpu().numpy()], draws.log_probability_R.cpu().numpy()
    order = np.lexsort((-score, row))
    latitude, longitude = places_of(draws.codes_RT.cpu().numpy()[order], model.config)
    lengths = np.bincount(row, minlength=images)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    structs = pa.StructArray.from_arrays(
        [
            latitude,
            longitude,
            score[order].astype(np.float32),
            pa.array(draws.count_R.cpu().numpy()[order], pa.int32()),
            pa.nulls(len(order), pa.float32()),
            pa.array(["sample"] * len(order)),
        ],
        fields=list(CANDIDATES.value_type),
    )
    return [pa.ListArray.from_arrays(offsets, structs, mask=pa.array(lengths == 0)).cast(CANDIDATES)]
