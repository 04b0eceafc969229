"""One worker's alignment: steps, checkpoints, and the encoder that comes of it.

Workers see every `world`-th row of a batch and each other's vectors, with gradients. A fit that is taken up again goes on as if
it had never stopped: rows, changes and dropout are functions of (seed, step, rank). With batch normalisation two workers are
not exactly one (each normalises its half); with any other network they are.

With `micro_batch` a worker's part goes through the networks in pieces (`geobatch.train.caching`), so that only its vectors
bound a batch. A checkpoint holds what is trained and the optimiser's state, not what is frozen: CLIP ViT-L/14 alone is 1.7 GB.

Not covered: clusters of near pictures from a table of vectors, whose rows lie in the archive's order; workers that share a
model's parameters (`parallel="fsdp"`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geobatch.engine.text import TextNetwork, text_network
from geobatch.engine.vision import ImageNetwork, bf16_pays, network
from geobatch.errors import UserError
from geobatch.methods.geotoken.align import TEXT, Align, Batch, Towers, location_encoder
from geobatch.methods.geotoken.batches import Batches
from geobatch.methods.geotoken.features import Features
from geobatch.train import caching, tower
from geobatch.train import loop as training
from geobatch.train.finite import refuse_divergence


class Alignment:
    """One worker's alignment; a `geobatch.train.loop.Trainee`.

    Args:
        config: how to learn.
        encoder: transformers folder or name to begin with; a folder with a `config.json` and no weights begins at random.
        data: folder that `pack.pack` or `features.index` wrote, readable by every worker.
        worker: who this is.
        gps: file of GeoCLIP's location encoder to begin with; None: random weights.
        text: folder or name of the text model; None: the encoder's own.
        towns: folder of the towns that captions speak of (`Geocoder.load`); None: the installed ones.

    Raises:
        UserError: data, settings and models do not fit each other.
    """

    def __init__(
        self,
        config: Align,
        encoder: str,
        data: Path,
        worker: training.Worker | None = None,
        gps: Path | None = None,
        text: str | None = None,
        towns: Path | None = None,
    ) -> None:
        worker = worker or training.Worker()
        self.config, self.worker, self.device = config, worker, torch.device(worker.device)
        if config.batch % worker.world:
            raise UserError(f"a batch of {config.batch} cannot be shared by {worker.world} workers; use a multiple")
        if worker.sharded:
            raise UserError("an encoder is not spread over workers; set --loop.parallel ddp")
        self.bf16 = config.precision == "bfloat16" or (config.precision == "auto" and bf16_pays(self.device))
        self.encoder = network(encoder, config.heads, config.seed)
        captions = _text(config, text or encoder) if TEXT in config.views else None
        self.batches = Batches(config, data, self.encoder.reads, captions, self.device, towns)
        if config.frozen:
            self.encoder.trunk.requires_grad_(False)
        if config.lora_rank:
            tower.adapt(self.encoder.trunk, config.lora_rank, seed=config.seed)
        gps_encoder = None if config.against == "places" else location_encoder(config.gps, gps)
        towers = Towers(config, self._reader(), gps_encoder, captions).to(self.device)
        if config.micro_batch:
            caching.refuse_batch_norm(towers)
        self.step = 0
        self._drop_idle(towers)
        self.towers = towers
        self._wrapped = towers if config.micro_batch else worker.wrap(towers)
        self._parameters = [parameter for parameter in towers.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
        )

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.config.length(len(self.batches))

    def advance(self) -> float:
        """One step; returns the loss.

        Raises:
            UserError: the loss or its gradient is no number.
        """
        config = self.config
        for group in self._optimiser.param_groups:
            group["lr"] = config.rate(self.step, len(self.batches))
        self._train()
        # What dropout draws is the step's own.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, self.worker.rank, 1]).generate_state(1)[0]))
        drawn = self.batches.draw(self.step, self.worker.rank, self.worker.world)
        self._optimiser.zero_grad()
        if config.micro_batch:
            whole = drawn.labels()
            pieces: list[Callable[[], Batch]] = [partial(drawn.piece, rows) for rows in drawn.pieces(config.micro_batch)]
            loss = caching.backward(pieces, self._embed, lambda vectors: self.towers.loss(list(vectors), whole), self.device)
            caching.averaged(self._parameters)
        else:
            batch = drawn.whole()
            with self._arithmetic():
                loss = self._wrapped(batch)
            loss.backward()
        found = float(loss.detach())
        norm = float(nn.utils.get_total_norm([each.grad for each in self._parameters if each.grad is not None]))
        refuse_divergence(self.step, found, norm, "lower --learning-rate or set --precision float32")
        self._optimiser.step()
        self.step += 1
        return found

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"step": self.step, "model": self._learnt(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of the same config, encoder and data.

        Raises:
            KeyError: it is of another.
        """
        if odd := state["model"].keys() ^ self._learnt().keys():
            raise KeyError(f"the checkpoint and the network differ in {sorted(odd)[0]}")
        self.towers.load_state_dict(state["model"], strict=False)
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def save(self, folder: Path) -> None:
        """The encoder as a folder that `geobatch.engine.vision` reads, and in it the location encoder, if one was trained."""
        found = self.encoder
        if self.config.lora_rank:
            found = ImageNetwork(tower.melted(found.trunk), found.by_view(), found.reads, found.pooled)
        found.save(folder)
        if self.towers.gps is not None:
            self.towers.gps.save(folder)

    def _reader(self) -> ImageNetwork:
        """The encoder, or just its heads where there are vectors to begin with."""
        found = self.encoder
        if not isinstance(self.batches.data, Features):
            return found
        channels = {head.channels for head in found.by_view().values() if head is not None}
        if channels != {self.batches.data.dimension}:
            raise UserError(
                f"vectors of {self.batches.data.dimension} numbers are not this encoder's own, of {max(channels)}; "
                "embed the images with it as it was before any alignment"
            )
        return ImageNetwork(None, found.by_view(), found.reads)

    def _embed(self, batch: Batch) -> list[Tensor]:
        with self._arithmetic():
            return self.towers.embed(batch)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _train(self) -> None:
        """Training mode, for all but trunks that keep their weights."""
        self._wrapped.train()
        if self.config.frozen and self.towers.encoder.trunk is not None:
            self.towers.encoder.trunk.eval()
        if self.towers.text is not None:
            self.towers.text.trunk.eval()

    def _drop_idle(self, towers: Towers) -> None:
        """Parameters no gradient reaches (CLIP's logit scale) would make DistributedDataParallel wait for ever."""
        buffers = {name: value.clone() for name, value in towers.named_buffers()}
        batch = self.batches.draw(0, self.worker.rank, self.worker.world).whole(8)
        towers(batch).backward()
        for parameter in towers.parameters():
            if parameter.grad is None:
                parameter.requires_grad_(False)
            parameter.grad = None
        for name, value in towers.named_buffers():
            value.copy_(buffers[name])

    def _learnt(self) -> dict[str, Tensor]:
        frozen = {name for name, parameter in self.towers.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.towers.state_dict().items() if name not in frozen}


def _text(config: Align, model: str) -> TextNetwork:
    found = text_network(model, config.head, config.seed)
    found.trunk.requires_grad_(False)
    if config.lora_rank:
        tower.adapt(found.trunk, config.lora_rank, seed=config.seed + 1)
    return found


def align(
    config: Align,
    encoder: str,
    data: Path,
    output: Path,
    *,
    name: str,
    loop: training.Loop | None = None,
    gps: Path | None = None,
    text: str | None = None,
    towns: Path | None = None,
    watch: Callable[[int, int, float], None] | None = None,
) -> dict[str, float]:
    """Trains an encoder and writes its folder; the figures are those of `geobatch.train.loop.fit`.

    Args:
        config, encoder, data, gps, text, towns: as for `Alignment`.
        output: folder of the trained encoder.
        name: what decides the result, as a name; the same name takes the same training up again.
    """

    def make(worker: training.Worker) -> Alignment:
        return Alignment(config, encoder, data, worker, gps, text, towns)

    return training.fit(make, output, name=name, loop=loop, watch=watch)
