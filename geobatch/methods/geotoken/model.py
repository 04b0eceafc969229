"""The network of GeoToken (arXiv 2511.01082, section 3): a place is written token by token, reading the image's neighbours.

The encoder reads `[CLS, views…]` of the query, then for each neighbour `[views…, tokens]`: 364 positions with the paper's
15 neighbours of 3 views and 21 tokens. The decoder writes the query's tokens, each with an output head of its own (6 faces,
then 4 children). Neighbours' tokens and the decoder's have separate embeddings, with a row for each (position, value).

A neighbour's positions are told apart by a learned embedding of the slot within the neighbour plus one of its rank, which
is 15 + 24 rows where a table of all positions would need 360. With the rank's embedding at zero the order of the
neighbours has no influence at all.

Where `prefix` is on, position t of a neighbour and step t of the decoder also get the same summary of the tokens before t,
from one shared table: two places agree in it exactly if they agree in the prefix ("sum": nearly; "hash": up to collisions).

`forward` is the loss, so that DistributedDataParallel can wrap the model; `encode` is the one way to a memory, in training
and sampling alike.

Not covered: flash attention with padding on GPUs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from geobatch.errors import UserError
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.layers import DecoderLayer, EncoderLayer, Kept, KeysValues, Rows
from geobatch.methods.geotoken.relative import Near, Relative

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_OCTAVES = 12  # wavelengths of the Fourier features along each axis: 2 Earth radii, halved down to 6 km


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of a batch: keys and values for each of its layers, and which of them exist."""

    layers: tuple[KeysValues, ...]
    mask: Tensor | None  # (B, 1, 1, S), None where all exist
    near: Near | None  # None where the config does not ask for relative places


class Prefixes(nn.Module):
    """Summaries of token prefixes, shared by encoder and decoder."""

    offsets: Tensor

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.kind = config.prefix
        self.buckets = config.prefix_buckets
        rows = sum(config.vocabularies) if config.prefix == "sum" else config.prefix_buckets
        self.table = nn.Embedding(rows, config.width)
        self.register_buffer("offsets", _offsets(config), persistent=False)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """(…, t) codes -> (…, t + 1, W): row j summarises the first j codes; row 0 is zero."""
        if self.kind == "sum":
            index = codes + self.offsets[: codes.shape[-1]]
        else:
            index = self._hashes(codes)
        return functional.pad(self.table(index).cumsum(-2), (0, 0, 1, 0))

    def _hashes(self, codes: Tensor) -> Tensor:
        state = codes.new_zeros(codes.shape[:-1])
        index = torch.empty_like(codes)
        for t in range(codes.shape[-1]):
            # Knuth's MMIX multiplier; int64 wraps round. The low bits of such a product are poor, the high ones good.
            state = (state + codes[..., t] + 1) * 6364136223846793005 + 1442695040888963407
            index[..., t] = (state >> 33).remainder(self.buckets)
        return index


class GeoTokenModel(nn.Module):
    """Encoder and decoder; see the module's text."""

    offsets: Tensor
    weights: Tensor
    octaves: Tensor

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.config = config
        views, width, length = len(config.views), config.width, config.length
        self.start = nn.Parameter(torch.zeros(2, width))  # [CLS], and the decoder's first input
        self.query_views = nn.ModuleList(nn.Linear(config.vector_size, width) for _ in range(views))
        self.neighbour_views = nn.ModuleList(nn.Linear(config.vector_size, width) for _ in range(views))
        self.similarity = nn.Linear(views, width) if config.similarity else None
        self.fourier = nn.Linear(6 * _OCTAVES, width) if "fourier" in config.neighbour_places else None
        self.has_tokens = "tokens" in config.neighbour_places
        self.query_slot = nn.Parameter(torch.zeros(views, width))
        self.slot = nn.Parameter(torch.zeros(views + (length if self.has_tokens else 0), width))
        self.rank = nn.Parameter(torch.zeros(config.neighbours, width))
        self.neighbour_codes = nn.Embedding(sum(config.vocabularies), width) if self.has_tokens else None
        self.codes = nn.Embedding(sum(config.vocabularies), width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.prefixes = Prefixes(config) if config.prefix != "none" else None
        self.relative = Relative(config) if config.relative else None
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, values) for values in config.vocabularies)
        self.drop = nn.Dropout(config.dropout)
        self.register_buffer("offsets", _offsets(config), persistent=False)
        self.register_buffer("weights", torch.tensor(config.weights), persistent=False)
        self.register_buffer("octaves", torch.pi * 2.0 ** torch.arange(_OCTAVES), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (self.start, self.query_slot, self.slot, self.rank, self.position):
            nn.init.normal_(parameter, std=0.02)
        for embedding in (self.codes, self.neighbour_codes):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)

    @property
    def parameters_in_all(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def encode(self, context: Context) -> Memory:
        """A batch of B contexts -> what the decoder reads of it."""
        x_BSW = self.drop(self._embed(context))
        mask = self._mask(context)
        for layer in self.encoder:
            x_BSW = layer(x_BSW, mask)
        x_BSW = self.encoder_norm(x_BSW)
        keys_values = tuple(cast(DecoderLayer, layer).cross.keys_values(x_BSW) for layer in self.decoder)
        return Memory(keys_values, mask, self.relative.near(context) if self.relative is not None else None)

    def _embed(self, context: Context) -> Tensor:
        # V views of length 1/√V have components of 1/√(V·D); scaled to 1 they weigh as much as the embeddings from the first
        # step on.
        views = len(self.config.views)
        scales = [(views * size) ** 0.5 for size in self.config.view_sizes or [self.config.vector_size] * views]
        query = [embed(scales[v] * context.views_BVD[:, v]) for v, embed in enumerate(self.query_views)]
        query_BVW = torch.stack(query, dim=1) + self.query_slot
        count = context.neighbour_views_BMVD.shape[1]
        near = [embed(scales[v] * context.neighbour_views_BMVD[:, :, v]) for v, embed in enumerate(self.neighbour_views)]
        views_BMVW = torch.stack(near, dim=2)
        if self.similarity is not None:
            cosine = functional.cosine_similarity(context.views_BVD[:, None], context.neighbour_views_BMVD, dim=-1)
            views_BMVW = views_BMVW + self.similarity(cosine)[:, :, None]
        if self.fourier is not None:
            angle = (context.neighbour_points_BM3[..., None] * self.octaves).flatten(2)
            views_BMVW = views_BMVW + self.fourier(torch.cat([angle.sin(), angle.cos()], dim=-1))[:, :, None]
        parts = [views_BMVW]
        if self.neighbour_codes is not None:
            codes = context.neighbour_codes_BMT
            tokens_BMTW = self.neighbour_codes(codes + self.offsets)
            if self.prefixes is not None:
                tokens_BMTW = tokens_BMTW + self.prefixes(codes[..., :-1])
            parts.append(tokens_BMTW)
        neighbours = torch.cat(parts, dim=2) + self.slot + self.rank[:count, None]
        start = self.start[0].expand(len(context), 1, -1)
        return torch.cat([start, query_BVW, neighbours.flatten(1, 2)], dim=1)

    def _mask(self, context: Context) -> Tensor | None:
        """(B, 1, 1, S) True where a position may be read; None where all may."""
        present = context.present_BM
        if bool(present.all()):
            return None
        query = present.new_ones(len(context), 1 + len(self.config.views))
        return torch.cat([query, present.repeat_interleave(len(self.slot), dim=1)], dim=1)[:, None, None]

    def inputs(self, codes_Rt: Tensor, near: Near | None, end: Tensor | None = None) -> Tensor:
        """(R, t) codes already written, their images' neighbours -> (R, t + 1, W) inputs of the decoder.

        Args:
            end: (W,) embedding of the position behind the last token, for who reads all T.
        """
        t = codes_Rt.shape[-1]
        written = self.codes(codes_Rt + self.offsets[:t])
        first = self.start[1].expand(len(codes_Rt), 1, -1)
        position = self.position if end is None else torch.cat([self.position, end[None]])
        x = torch.cat([first, written], dim=1) + position[: t + 1]
        if self.prefixes is not None:
            x = x + self.prefixes(codes_Rt)
        return x if self.relative is None or near is None else x + self.relative(near, codes_Rt)

    def read(self, memory: Memory, x_RTW: Tensor) -> Tensor:
        """(R, T, W) inputs of the decoder -> (R, T, W), each position having read those up to it; R is a multiple of B."""
        x_RTW = self.drop(x_RTW)
        for layer, keys_values in zip(self.decoder, memory.layers, strict=True):
            x_RTW = layer(x_RTW, keys_values, memory.mask)
        return cast(Tensor, self.decoder_norm(x_RTW))

    def logits(self, memory: Memory, codes_BT: Tensor) -> list[Tensor]:
        """Teacher forcing: (B, T) codes -> T tensors (B, values), the one at t having read codes before t only."""
        x_BTW = self.read(memory, self.inputs(codes_BT[:, :-1], memory.near))
        return [head(x_BTW[:, t]) for t, head in enumerate(self.heads)]

    def keep(self, memory: Memory, prefixes: int) -> list[Kept]:
        """Room for the keys and values of as many prefixes, for each layer of the decoder."""
        return [Kept(self.config, prefixes, memory.layers[0][0]) for _ in self.decoder]

    def step(self, memory: Memory, rows: Rows, codes_Rt: Tensor, kept: list[Kept]) -> Tensor:
        """(R, values) logits of token t of R prefixes with t codes each; their keys and values are added to `kept`."""
        t = codes_Rt.shape[1]
        near = memory.near.of(rows.image_R) if memory.near is not None else None
        # A row of t + 1 strides further each step: to a compiler, another program each.
        x_RW = self.inputs(codes_Rt, near)[:, -1].contiguous()
        for layer, kept_here, keys_values in zip(self.decoder, kept, memory.layers, strict=True):
            x_RW = cast(DecoderLayer, layer).step(x_RW, t, kept_here, keys_values, memory.mask, rows)
        return self.heads[t](self.decoder_norm(x_RW))

    def compile_steps(self) -> None:
        """From now on each layer of `step` runs as few fused kernels.

        A step is some 25 small kernels a layer, and for small batches a GPU waits for their launches. Layers are compiled
        one by one, so that all ten share one program; the numbers of prefixes and of tokens stay free. The first steps
        take seconds.
        """
        for layer in self.decoder:
            step = torch.compile(cast(DecoderLayer, layer).step, dynamic=True)
            object.__setattr__(layer, "step", step)  # beside the modules, whatever nn.Module would make of it

    def losses(self, context: Context, codes_BT: Tensor, targets_BTV: Tensor | None = None) -> Tensor:
        """(T,) mean cross-entropy of each token, nats; against the codes, or against shares of all values where given."""
        logits = self.logits(self.encode(context), codes_BT)
        wanted = [
            codes_BT[:, t] if targets_BTV is None else targets_BTV[:, t, : logits[t].shape[1]] for t in range(len(logits))
        ]
        return torch.stack([functional.cross_entropy(x.float(), y) for x, y in zip(logits, wanted, strict=True)])

    def forward(self, context: Context, codes_BT: Tensor, targets_BTV: Tensor | None = None) -> Tensor:
        """The loss: per-token cross-entropies weighted 2 → 1 and divided by the weights' sum (paper, section 3)."""
        return (self.losses(context, codes_BT, targets_BTV) * self.weights).sum() / self.weights.sum()

    def save(self, folder: Path, **more: Any) -> None:
        """Writes `model.safetensors` and `config.json`; `more` are further sections of the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(json.dumps({"model": asdict(self.config), **more}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> GeoTokenModel:
        """The model that `save` wrote, in evaluation mode.

        Raises:
            UserError: a file is missing, or config and weights do not belong together.
        """
        try:
            config = GeoToken.read(json.loads((folder / _CONFIG).read_text())["model"])
            weights = load_file(folder / _WEIGHTS)
        except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder} holds no GeoToken model ({error}); name a folder that training wrote") from error
        model = cls(config)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in weights.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise UserError(
                f"the weights in {folder} are not of the model its config.json describes ({len(wrong)} tensors differ, "
                f"first {wrong[0]}: {found.get(wrong[0])} for {expected.get(wrong[0])}); train again or restore the folder"
            )
        model.load_state_dict(weights)
        return model.eval()


def _offsets(config: GeoToken) -> Tensor:
    """(T,) first row of each position in a table with one row for each (position, value)."""
    sizes = torch.tensor(config.vocabularies)
    return sizes.cumsum(0) - sizes
