"""The stage that reads an image's vector and neighbours and draws candidates.

The network takes `Sampling.batch` images at a time, always the same ones together for the same table: the stage cuts the
table itself. Each image's draws depend on its id and the seed only (`draws`).

Candidates may come from draws, from beam search and from the greedy path, all in one table, told apart by `origin`. Where there
are draws, only they count: a candidate of the others has count 0, which leaves the posterior as it was and still lets it be
chosen. Without draws, the beam's places share the K draws by their probabilities, and a lone greedy place stands for all.

On a GPU as many images go together as half the free memory holds, by what one image needs (`bytes_an_image`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from geobatch.errors import Rejection
from geobatch.methods.geotoken import asked
from geobatch.methods.geotoken.beam import beam
from geobatch.methods.geotoken.capacity import free_bytes
from geobatch.methods.geotoken.config import GeoToken, Sampling
from geobatch.methods.geotoken.draws import Draws, greedy, shared
from geobatch.methods.geotoken.inputs import Context, places_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.schema import CANDIDATES
from geobatch.stage import Stage, rejected

#: Images that go together on a CPU, where more are no faster; and the most a GPU is given.
_ON_CPU, _AT_MOST = 64, 4096

_UNTOLD = "the network's probabilities for it are no numbers; if that is said of every image, train the network again"


class Sample(Stage):
    """Vectors and neighbours -> distinct candidates, best first, each with how many of the K draws it is.

    Reads `image_id`, `vector` (list of D float32), `neighbours` and `neighbour_vectors` (list of M'·D float32, in
    the order of `neighbours`). A neighbour without a place counts as missing. An image whose vector is missing or not
    finite is rejected, and so is one for which the network's probabilities are not: it would get a place that says nothing.

    Args:
        model: a model, or the folder one was saved in.
        device: where it runs.
        pass_on: whether `neighbour_vectors` go on to a stage that reads them too (`geobatch.methods.geotoken.reward`).
    """

    drops: tuple[str, ...] = ("neighbour_vectors",)
    adds = (pa.field("candidates", CANDIDATES),)

    def __init__(
        self,
        model: GeoTokenModel | Path | str,
        sampling: Sampling | None = None,
        device: str = "cpu",
        pass_on: bool = False,
    ) -> None:
        loaded = model if isinstance(model, GeoTokenModel) else GeoTokenModel.load(Path(model))
        self.model = loaded.to(device).eval()
        self.sampling = sampling or Sampling()
        self.device = torch.device(device)
        self.images = self.sampling.batch or fitting(self.model.config, self.sampling, self.device)
        if pass_on:
            self.drops = ()
        if self.sampling.compile == "on" or (self.sampling.compile == "auto" and self.device.type == "cuda"):
            self.model.compile_steps()

    def work(self, table: pa.Table) -> pa.Table:
        """See the class.

        Raises:
            UserError: vectors of another length than the model's.
        """
        return pa.concat_tables([self._part(table.slice(at, self.images)) for at in range(0, len(table), self.images)])

    def _part(self, table: pa.Table) -> pa.Table:
        queries, sound = asked.queries(table, self.model.config)
        columns = [pa.nulls(len(table), field.type) for field in self.adds]
        vectorless = Rejection("failed", "the image's vector is missing or not finite")
        fates = dict.fromkeys(np.flatnonzero(~sound).tolist(), vectorless)
        if sound.any():
            living = table.filter(pa.array(sound))
            context = asked.batch(living, queries[sound], self.model.config).to(self.device)
            half = self.sampling.precision == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                found = self._decoded(context, living["image_id"].to_pylist())
            rows = np.flatnonzero(sound)
            told = _told(found, len(rows))
            columns = _lists(found, self.model.config, rows, told, len(table))
            fates |= dict.fromkeys(rows[~told].tolist(), Rejection("failed", _UNTOLD))
        for field, values in zip(self.adds, columns, strict=True):
            table = table.append_column(field, values)
        return rejected(table, "sample", fates)

    def _decoded(self, context: Context, ids: list[str]) -> dict[str, Draws]:
        """Candidates by their origin; those of the first one asked for count, draws before others."""
        how, model, found = self.sampling, self.model, {}
        if "sample" in how.decode:
            found["sample"] = shared(model, context, ids, samples=how.samples, temperature=how.temperature, seed=how.seed)
        if "beam" in how.decode:
            counted = 0 if found else how.samples
            found["beam"] = beam(model, context, how.beam, stands_for=counted, temperature=how.temperature)
        if "greedy" in how.decode:
            counted = 0 if found else how.samples
            codes, log = greedy(model, context)
            image_B = torch.arange(len(codes), device=codes.device)
            found["greedy"] = Draws(codes, image_B, torch.full_like(image_B, counted), log, log, codes.numel())
        return found


def bytes_an_image(config: GeoToken, sampling: Sampling) -> int:
    """Bytes that one image takes while it is decoded: its memory for all layers, the prefixes' keys and values, the encoder."""
    size = 2 if sampling.precision == "bfloat16" else 4
    prefixes = max([sampling.samples] * ("sample" in sampling.decode) + [sampling.beam] * ("beam" in sampling.decode) + [1])
    tokens = config.length if "tokens" in config.neighbour_places else 0
    positions = 1 + len(config.views) + config.neighbours * (len(config.views) + tokens)
    memory = 2 * positions * config.width * config.decoder_layers * size
    kept = 2 * prefixes * config.length * config.width * config.decoder_layers * size
    encoding = positions * 4 * (6 * config.width + 2 * config.feed_forward)
    return memory + kept + encoding


def fitting(config: GeoToken, sampling: Sampling, device: torch.device) -> int:
    """Images that go through the network together."""
    if device.type == "cpu":
        return _ON_CPU
    return int(np.clip(free_bytes(device) // 2 // bytes_an_image(config, sampling), 1, _AT_MOST))


def _told(found: dict[str, Draws], images: int) -> npt.NDArray[np.bool_]:
    """(images,) whether all that the network says of an image is a number: of NaN every draw is token 0, one place on Earth."""
    told = np.ones(images, bool)
    for each in found.values():
        odd = ~(each.log_probability_R.isfinite() & each.tempered_R.isfinite())
        told[each.image_R[odd].cpu().numpy()] = False
    return told


def _lists(
    found: dict[str, Draws],
    config: GeoToken,
    rows: npt.NDArray[np.intp],
    told: npt.NDArray[np.bool_],
    images: int,
) -> list[pa.Array]:
    """The column `candidates` (best first) of a table of `images` rows, null in all but those of `rows` that are `told`."""

    def joined(name: str) -> npt.NDArray[np.float64]:
        return np.concatenate([getattr(each, name).cpu().numpy() for each in found.values()])

    image, score = joined("image_R").astype(np.intp), joined("log_probability_R")
    origin = np.repeat(np.array(list(found)), [len(each.image_R) for each in found.values()])
    order = np.lexsort((-score, image))
    order = order[told[image[order]]]
    latitude, longitude = places_of(joined("codes_RT").astype(np.int64)[order], config)
    lengths = np.bincount(rows[image[order]], minlength=images)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    structs = pa.StructArray.from_arrays(
        [
            latitude,
            longitude,
            score[order].astype(np.float32),
            pa.array(joined("count_R").astype(np.int32)[order], pa.int32()),
            pa.nulls(len(order), pa.float32()),
            pa.array(origin[order].tolist(), pa.string()),
        ],
        fields=list(CANDIDATES.value_type),
    )
    return [pa.ListArray.from_arrays(offsets, structs, mask=pa.array(lengths == 0)).cast(CANDIDATES)]
