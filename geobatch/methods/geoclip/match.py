"""Vectors meet 100,000 places; the softmax of their cosines is a distribution over the Earth.

One product of matrices for a block of pictures, a softmax over all places, and from it everything the table says: the
likeliest places as candidates, the chosen one, the probability within the published radii, the radius and the S2 cell that hold
90 % (`density`).
The paper's choice is the likeliest place. A place of the city where everybody photographs competes with a hundred
others beside it and a lonely one has its mass for itself, so expected loss over the likeliest `pool` may choose otherwise.

`score` is the probability of the chosen place alone, and a candidate's `score` its own; `similarity` is the cosine of picture
and place.

On a CPU all actors of a machine share one copy of the features, mapped from disk. A picture takes 3.9 ms of one core of an AMD
EPYC, half of it the product, where CLIP ViT-L/14 before it takes more than a second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from geobatch.errors import Rejection, UserError
from geobatch.geo import centre
from geobatch.methods.geoclip.config import Matching
from geobatch.methods.geoclip.density import Curve, around
from geobatch.methods.geoclip.places import Places, place
from geobatch.schema import CANDIDATES, CONFIDENCE, LOCATED
from geobatch.stage import Stage

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

#: Pictures that are compared together: 64 × 100,000 float32 are 26 MB.
_BLOCK = 64


class Match(Stage):
    """Adds the place, its density and the candidates; drops the vector.

    Args:
        encoder: file of GeoCLIP's location encoder, or a folder that `LocationEncoder.save` wrote.
        places: CSV of coordinates, or a gallery's folder.
        scale: factor of the cosines before the softmax.
        matching: how the place is chosen.
        view: (first, size) of the numbers of `vector` that are compared, for an encoder of several views; None: all.
        cache: folder of the places' features; None: see `places.home`.
        device: where cosines and softmax are computed.

    Raises:
        UserError: encoder or places do not read.
    """

    drops = ("vector",)
    adds = (*LOCATED, *(field for field in CONFIDENCE if field.name != "fallback"))

    def __init__(
        self,
        encoder: str,
        places: str,
        scale: float,
        matching: Matching | None = None,
        view: tuple[int, int] | None = None,
        cache: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.places: Places = place(Path(encoder), Path(places), Path(cache) if cache else None)
        self.curve = Curve(self.places.latitude, self.places.longitude)
        self.features = torch.from_numpy(self.places.features).to(device)
        self.scale, self.matching, self.view = scale, matching or Matching(), view

    def work(self, table: pa.Table) -> pa.Table:
        """Needs `vector`, lists of equal length.

        Raises:
            Rejection: a vector is missing or not finite.
            UserError: vectors of another length than the places'.
        """
        queries = self._queries(table)
        blocks = [self._block(queries[start : start + _BLOCK]) for start in range(0, len(queries), _BLOCK)]
        columns = [pa.concat_arrays(parts) for parts in zip(*blocks, strict=True)]
        for field, column in zip(self.adds, columns, strict=True):
            table = table.append_column(field, column)
        return table

    @torch.inference_mode()
    def probabilities(self, queries: Vectors) -> tuple[Tensor, Tensor]:
        """Cosines and softmax (N, G), on the stage's device, of unit vectors (N, D)."""
        cosines = torch.from_numpy(queries).to(self.features.device) @ self.features.T
        return cosines, torch.softmax(cosines * self.scale, dim=1)

    def _queries(self, table: pa.Table) -> Vectors:
        lists, width = table["vector"].to_numpy(), self.places.features.shape[1]
        if any(each is None or not np.isfinite(each).all() for each in lists):
            raise Rejection("failed", "the image's vector is missing or not finite")
        queries = np.stack(lists).astype(np.float32)
        if self.view is not None:
            first, size = self.view
            queries = queries[:, first : first + size]
            queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), np.float32(1e-12))
        if queries.shape[1] != width:
            raise UserError(f"image vectors are {queries.shape[1]} long and the places' {width}; "
                            "use the two encoders that were trained together")  # fmt: skip
        return queries

    def _block(self, queries: Vectors) -> list[pa.Array]:
        """The columns of `adds` for one block."""
        cosines, softmax = self.probabilities(queries)
        rows, wanted = np.arange(len(queries)), self.matching.candidates
        pool = likeliest(softmax, wanted if self.matching.choose == "similarity" else max(wanted, self.matching.pool))
        mass: Vectors = softmax.cpu().numpy()
        best = self._chosen(mass, pool)
        about = around(self.places.points, mass, best)
        tokens, held = self.curve.area(mass)
        numbers = [self.places.latitude[best], self.places.longitude[best], mass[rows, best], *about.within.T]
        columns = [pa.array(values, field.type) for field, values in zip(LOCATED, numbers, strict=False)]
        kept = pool[:, :wanted]
        similarity = cosines.cpu().numpy()[rows[:, None], kept]
        return [
            *columns,
            self._candidates(kept, np.take_along_axis(mass, kept, 1), similarity),
            pa.nulls(len(rows), LOCATED[-1].type),
            pa.array(about.radius_90_km, pa.float32()),
            pa.array(tokens, pa.string()),
            pa.array(held, pa.float32()),
            pa.array([self.matching.choose] * len(rows)),
        ]

    def _chosen(self, mass: Vectors, pool: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Rows (N,) of the places."""
        if self.matching.choose == "similarity":
            return pool[:, 0]
        among = pool[:, : self.matching.pool]
        by = {"expected_distance": centre.least_expected_distance, "expected_share": centre.most_expected_share}
        points, weights = self.places.points[among], np.take_along_axis(mass, among, 1)
        best = by[self.matching.choose](points, weights)
        chosen: npt.NDArray[np.intp] = among[np.arange(len(among)), best]
        return chosen

    def _candidates(self, kept: npt.NDArray[np.intp], score: Vectors, cosine: Vectors) -> pa.ListArray:
        count, width = kept.shape
        flat = kept.ravel()
        values = {
            "latitude": self.places.latitude[flat],
            "longitude": self.places.longitude[flat],
            "score": score.ravel(),
            "count": [None] * len(flat),
            "similarity": cosine.ravel(),
            "origin": ["place"] * len(flat),
        }
        fields = list(CANDIDATES.value_type)
        arrays = [pa.array(values[field.name], field.type) for field in fields]
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=CANDIDATES)


def likeliest(mass: Tensor, count: int) -> npt.NDArray[np.intp]:
    """Columns (N, count) of the largest numbers of each row, largest first, of equal ones the first; fewer where there are."""
    values, columns = (each.cpu().numpy() for each in torch.topk(mass, min(count, mass.shape[1]), dim=1))
    order = np.lexsort((columns, -values), axis=1)
    found: npt.NDArray[np.intp] = np.take_along_axis(columns, order, 1)
    return found
