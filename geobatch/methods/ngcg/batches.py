"""What a step learns from: which pairs of text and tile share a batch, and what the encoder reads of them.

Every tile of a batch is a negative of every text but its own, so two tiles of the same place make a wrong statement of each
other. The published code has a sampler of unique buildings and never calls it. Here the law is a layout (`Order`): a pass is B
columns of M batches, filled column by column with the pairs sorted by place, the places in random order. A place of at most M
pairs then covers at most the end of one column and the beginning of the next, and never the same batch twice; each column is
shuffled, the continued place only over the batches that its beginning left free. Every batch is full, every pair comes once a
pass, and two places meet as they would by chance.

What does not fit waits. A place of more than M pairs shows M of them a pass, and what is left over of M·B waits as well; the
pairs that have been seen least go first, so that each of c pairs is seen in about every c / M-th pass. M is the largest number
of batches that the places can fill, which one huge place makes small: then a pass is short, and there are more of them, for a
training's length is counted in pairs (`Order.steps`). Nothing waits for ever; `Order.waiting` says how many wait in each pass.

A pass is a function of (seed, number), whoever asks; where pairs wait, the selections of the passes before are made again (40
ms each for 50,000 pairs). A tile of several texts shows them in turn, from a random one on. Workers take every W-th pair of a
batch. Changes of pictures are a function of (seed, step, rank), so with them two workers are not one.

Two places of which the same is said, word for word, are no negatives of each other either (`Drawn.words`): "open sea" does not
tell them apart.

Not covered: places that are near and have different numbers; texts that mean the same in other words.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Tuning
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.inputs import Batch
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train.augment import Augment
from geobatch.train.loop import Worker

Rows = NDArray[np.int64]


def batches_of(groups: Rows, size: int, distinct: bool = True) -> int:
    """How many full batches a pass has: the most that can be filled, no place twice in any.

    Args:
        groups: (N,) integers; equal ones are the same place.
        size: pairs a batch.
        distinct: whether places matter.

    Raises:
        UserError: not one can be filled.
    """
    counts = np.unique(groups, return_counts=True)[1]
    if size > (len(counts) if distinct else len(groups)):
        said = f"{len(counts):,} places" if distinct else f"{len(groups):,} pairs"
        more = ", or allow a place twice with --tuning.no-distinct" if distinct and size <= len(groups) else ""
        raise UserError(f"{said} are less than one batch; lower --tuning.batch from {size}{more}")
    low, high = 1, len(groups) // size
    while distinct and low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() >= middle * size else (low, middle - 1)
    return high


class Order:
    """Which pairs make up each step; see the top.

    Args:
        groups: (N,) integers; equal ones are the same place.
        size: pairs a step, over all workers together.
        distinct: whether no place may come twice in a batch.
        seed: of the order.

    Attributes:
        batches: M, batches a pass.
        waiting: pairs that wait in each pass.

    Raises:
        UserError: not one batch can be filled.
    """

    def __init__(self, groups: Rows, size: int, distinct: bool = True, seed: int = 0) -> None:
        self.batches = batches_of(groups, size, distinct)
        self._groups: Rows = np.unique(groups, return_inverse=True)[1] if distinct else np.arange(len(groups))
        self._size, self._seed = size, seed
        self.waiting = len(groups) - self.batches * size
        self._first_text = np.random.default_rng([seed, 0]).integers(1 << 30, size=len(groups))
        self._restart()

    def _restart(self) -> None:
        self._pass, self._seen = -1, np.zeros(len(self._groups), np.int64)
        self._order = self._turns = np.empty((0, 0), np.int64)

    def steps(self, epochs: float) -> int:
        """Steps that show `epochs` times as many pairs as there are."""
        return max(1, round(epochs * len(self._groups) / self._size))

    def rows(self, step: int) -> tuple[Rows, Rows]:
        """(B,) pairs of a step, counted from 0, and (B,) which of its texts each shows: the number modulo that of its texts."""
        number, at = divmod(step, self.batches)
        if number < self._pass:
            self._restart()
        while self._pass < number:
            self._pass += 1
            taken = self._taken(self._pass)
            if self._pass == number:
                self._order = self._laid_out(taken, number)
                self._turns = (self._first_text + self._seen)[self._order]
            self._seen[taken] += 1
        return self._order[at], self._turns[at]

    def _taken(self, number: int) -> Rows:
        """(M·B,) pairs of a pass: the least seen, M of a place at most."""
        count = len(self._groups)
        if not self.waiting:
            return np.arange(count)
        chance = np.random.default_rng([self._seed, number, 1]).permutation(count)
        ranked = np.lexsort((chance, self._seen, self._groups))
        groups = self._groups[ranked]
        begins = np.flatnonzero(np.diff(groups, prepend=-1))
        place = np.arange(count) - np.repeat(begins, np.diff(begins, append=count))
        able = ranked[place < self.batches]
        return able[np.lexsort((chance[able], self._seen[able]))][: self.batches * self._size]

    def _laid_out(self, taken: Rows, number: int) -> Rows:
        """(M, B) the pairs of each batch."""
        random = np.random.default_rng([self._seed, number, 2])
        rank = random.permutation(len(self._groups))  # of the places, whose numbers are below N
        line = taken[np.lexsort((random.random(len(taken)), rank[self._groups[taken]]))]
        columns = line.reshape(self._size, self.batches)
        out = np.empty_like(columns)
        before = seats = columns[0, :0]
        for column, row in zip(columns, out, strict=True):
            continued = self._groups[before[-1]] if len(before) else -1
            busy = seats[self._groups[before] == continued]
            free = np.setdiff1d(np.arange(self.batches), busy, assume_unique=True)
            first = random.permutation(free)[: int((self._groups[column] == continued).sum())]
            rest = np.setdiff1d(np.arange(self.batches), first, assume_unique=True)
            before, seats = column, np.concatenate([first, random.permutation(rest)])
            row[seats] = column
        return np.ascontiguousarray(out.T)


@dataclass(frozen=True)
class Piece:
    """What goes through the encoder at once: m texts and m · (1 + h) tiles, each text's own tile first, then its hard ones."""

    texts: Batch
    tiles: Batch

    def on(self, device: torch.device) -> Piece:
        """The same there."""
        texts, tiles = ({name: each.to(device) for name, each in side.items()} for side in (self.texts, self.tiles))
        return Piece(texts, tiles)


@dataclass(frozen=True)
class Drawn:
    """A worker's part of a step.

    Args:
        pieces: of b pairs together.
        groups: (b,) the pairs' places.
        others: (b, h) the places of each pair's hard tiles.
        words: (b,) a number for each text; equal ones read alike.
        said: (b, h, K) the numbers of all texts of each hard tile, the first again where it has fewer than any.
    """

    pieces: list[Piece]
    groups: Tensor
    others: Tensor
    words: Tensor
    said: Tensor


class Batches:
    """Reads a worker's part of each step.

    Args:
        pairs: to learn from.
        encoder: builds the inputs.
        order: which pairs make up a step.
        tuning: size of pieces, changes of pictures, seed.
        worker: who reads.
    """

    def __init__(self, pairs: Pairs, encoder: Encoder, order: Order, tuning: Tuning, worker: Worker) -> None:
        self.pairs, self.encoder, self.order, self.tuning, self.worker = pairs, encoder, order, tuning, worker

    def read(self, step: int, hard: Rows | None = None) -> Drawn:
        """This worker's part.

        Args:
            hard: (B, h) tiles, of all workers' pairs, that each text is to be told apart from as well.
        """
        rows, turns = (each[self.worker.rank :: self.worker.world] for each in self.order.rows(step))
        others = np.empty((len(rows), 0), np.int64) if hard is None else hard[self.worker.rank :: self.worker.world]
        texts = [self.text(int(row), int(turn)) for row, turn in zip(rows, turns, strict=True)]
        shown = np.concatenate([rows[:, None], others], axis=1)
        pictures = [self.pairs.picture(int(row)) for row in shown.reshape(-1)]
        if self.tuning.augment is not None:
            words = np.random.SeedSequence([self.tuning.seed, step, self.worker.rank, 3]).generate_state(1)
            pictures = changed(pictures, self.tuning.augment, torch.Generator().manual_seed(int(words[0])))
        size, wide = self.tuning.micro_batch or len(rows), shown.shape[1]
        pieces = [
            Piece(self.encoder.texts(texts[at : at + size]), self.encoder.pictures(pictures[at * wide : (at + size) * wide]))
            for at in range(0, len(rows), size)
        ]
        groups = self.pairs.groups
        marks = torch.tensor([mark(text) for text in texts])
        said = torch.from_numpy(self._said(others))
        return Drawn(pieces, torch.from_numpy(groups[rows]), torch.from_numpy(groups[others]), marks, said)

    def _said(self, rows: Rows) -> Rows:
        """(b, h, K) numbers of all that is said of the tiles (b, h)."""
        found = np.empty((*rows.shape, self.pairs.most_texts), np.int64)
        for at in np.ndindex(rows.shape):
            marks = [mark(text) for text in self.pairs.texts(int(rows[at]))]
            found[at] = [*marks, *[marks[0]] * (found.shape[2] - len(marks))]
        return found

    def text(self, row: int, turn: int) -> str:
        """The text of a pair whose turn it is."""
        texts = self.pairs.texts(row)
        return texts[turn % len(texts)]


def mark(text: str) -> int:
    """A number for a text; two texts in 10^19 would get the same."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def changed(pictures: list[NDArray[np.uint8]], augment: Augment, random: torch.Generator) -> list[NDArray[np.uint8]]:
    """(H, W, 3) pictures as another camera would have taken them; those of one size are changed together."""
    out = list(pictures)
    for size in sorted({picture.shape for picture in pictures}):
        alike = [number for number, picture in enumerate(pictures) if picture.shape == size]
        levels = torch.from_numpy(np.stack([pictures[number] for number in alike])).permute(0, 3, 1, 2).float()
        seen = augment(levels, random).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        for number, picture in zip(alike, seen, strict=True):
            out[number] = picture
    return out
