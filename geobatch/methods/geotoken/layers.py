"""The two kinds of layers, and the attention that reads a memory shared by many prefixes.

Layers are pre-norm: each adds f(norm(x)) to x and a last norm closes the stack. The paper does not say;
this is the choice that needs no warm-up, and the paper names none. Attention is torch's
`scaled_dot_product_attention`, but for short sequences in bfloat16 on CPUs, where it is 7 times slower than plain products.

In decoding, R prefixes of B images are packed in one matrix for everything that acts on rows. Only cross-attention needs
to know which image a prefix belongs to: there the queries are laid out (B, F), F the most prefixes any image has, so
that each image's keys and values are read in place, never copied per prefix. A copy would be 364 positions × 20 matrices ×
512 × 4 bytes = 15 MB for each of 30 prefixes at the paper's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geobatch.methods.geotoken.config import GeoToken

KeysValues = tuple[Tensor, Tensor]  # (rows, heads, positions, width / heads) each


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made apart from its queries, so that they can be kept."""

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def split(self, x_RPW: Tensor) -> Tensor:
        """(R, P, W) -> (R, heads, P, W / heads)."""
        return x_RPW.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x_RPW: Tensor) -> KeysValues:
        """Keys and values of R rows of P positions."""
        key, value = self.key_value(x_RPW).chunk(2, dim=-1)
        return self.split(key), self.split(value)

    def attend(self, query: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """(R, heads, Q, W / heads) queries -> (R, Q, W) before the output projection."""
        dropout = self.dropout if self.training else 0.0
        if _short(query, memory[0]):
            mixed = _explicit(query, *memory, mask, dropout, causal)
        else:
            mixed = functional.scaled_dot_product_attention(query, *memory, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x_RQW: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """(R, Q, W) -> (R, Q, W); `mask` is True where a key may be read, broadcast to (R, heads, Q, keys)."""
        return self.out(self.attend(self.split(self.query(x_RQW)), memory, mask, causal))


def _short(query: Tensor, key: Tensor) -> bool:
    # torch 2.13's flash attention for CPUs, forward and backward in bfloat16: 71 ms for 256 × 4 heads × 42 positions × 32;
    # three plain operations: 9.5 ms. In float32 they are even, and a long row of scores is worth not keeping.
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] * key.shape[2] <= 1 << 14


def _explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):  # which would compute the softmax in float32
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return functional.dropout(scores.softmax(-1), dropout) @ value


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between."""

    def __init__(self, config: GeoToken) -> None:
        super().__init__(
            nn.Linear(config.width, config.feed_forward),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, config.width),
        )


class EncoderLayer(nn.Module):
    """Self-attention over the whole input, then a feed-forward."""

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BSW: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        normed = self.norms[0](x_BSW)
        x_BSW = x_BSW + self.drop(self.attention(normed, self.attention.keys_values(normed), mask))
        return x_BSW + self.drop(self.feed_forward(self.norms[1](x_BSW)))


@dataclass(frozen=True)
class Rows:
    """Which image each of R prefixes belongs to, and its place in the (B, F) layout."""

    images: int
    width: int  # F
    image_R: Tensor
    slot_R: Tensor | None  # image · F + rank; None where that is 0, 1, 2, …

    @classmethod
    def of(cls, image_R: Tensor, images: int) -> Rows:
        """Lays out prefixes whose images, (R,) in any order, are given."""
        counts = torch.bincount(image_R, minlength=images)
        width = int(counts.max())
        order = image_R.argsort(stable=True)
        number = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        slot_R = image_R * width + number - (counts.cumsum(0) - counts)[image_R]
        straight = width * images == len(slot_R) and bool((slot_R[1:] > slot_R[:-1]).all())
        return cls(images, width, image_R, None if straight else slot_R)

    def spread(self, x_RW: Tensor) -> Tensor:
        """(R, W) -> (B, F, W), zero where an image has fewer prefixes."""
        if self.slot_R is not None:
            x_RW = x_RW.new_zeros(self.images * self.width, x_RW.shape[1]).index_copy(0, self.slot_R, x_RW)
        return x_RW.unflatten(0, (self.images, self.width))

    def gather(self, x_BFW: Tensor) -> Tensor:
        """The inverse of `spread`."""
        x = x_BFW.flatten(0, 1)
        return x if self.slot_R is None else x[self.slot_R]


class Kept:
    """Keys and values of R prefixes in one decoder layer, written in place as they grow.

    The room for all tokens of as many prefixes as there may ever be is taken once. Growing tensors by concatenation and
    reordering them at each step took a third of the time of sampling.
    """

    def __init__(self, config: GeoToken, capacity: int, like: Tensor) -> None:
        shape = (2, capacity, config.heads, config.length, config.width // config.heads)
        self.both = like.new_empty(shape)

    def append(self, t: int, new: KeysValues) -> KeysValues:
        """Writes position t of the first R prefixes, (R, heads, 1, W / heads) each; returns their positions up to t."""
        rows = len(new[0])
        for kept, values in zip(self.both, new, strict=True):
            kept[:rows, :, t : t + 1] = values
        return self.both[0, :rows, :, : t + 1], self.both[1, :rows, :, : t + 1]

    def branch(self, rows: int, parent: Tensor, t: int) -> None:
        """Copies the first t positions of the `parent` prefixes to new prefixes behind the first `rows`."""
        self.both[:, rows : rows + len(parent), :, :t] = self.both[:, parent, :, :t]

    def reorder(self, parent: Tensor, t: int) -> None:
        """Row r gets the first t positions of row `parent[r]`, for all r at once."""
        self.both[:, : len(parent), :, :t] = self.both[:, parent, :, :t]


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the memory, then a feed-forward."""

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.attention = Attention(config)
        self.cross = Attention(config)
        self.feed_forward = FeedForward(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_RTW: Tensor, memory: KeysValues, mask: Tensor | None) -> Tensor:
        """(R, T, W) -> (R, T, W), all positions at once; each of the memory's B images has R / B rows, one after another."""
        normed = self.norms[0](x_RTW)
        x_RTW = x_RTW + self.drop(self.attention(normed, self.attention.keys_values(normed), causal=True))
        # All positions of an image's rows read its memory in place: to attention they are one long row of queries.
        query = self.norms[1](x_RTW).reshape(len(memory[0]), -1, x_RTW.shape[2])
        x_RTW = x_RTW + self.drop(self.cross(query, memory, mask).reshape(x_RTW.shape))
        return x_RTW + self.drop(self.feed_forward(self.norms[2](x_RTW)))

    def step(self, x_RW: Tensor, t: int, kept: Kept, memory: KeysValues, mask: Tensor | None, rows: Rows) -> Tensor:
        """(R, W) -> (R, W): position t of R prefixes, whose earlier positions are `kept`."""
        normed = self.norms[0](x_RW)[:, None]
        x_RW = x_RW + self.attention(normed, kept.append(t, self.attention.keys_values(normed)))[:, 0]
        query = self.cross.split(rows.spread(self.cross.query(self.norms[1](x_RW))))
        x_RW = x_RW + self.cross.out(rows.gather(self.cross.attend(query, memory, mask)))
        return x_RW + self.feed_forward(self.norms[2](x_RW))
