"""How the reward model learns: from draws of the network it will judge, for images that the network was trained on.

Each step draws `samples` places for each of its images from the trained network, with the images' own training neighbours
(the image itself left out), and asks which lie within 200 km. Drawing inside the step needs no table of draws, shares the
work among the workers, and is resumed with the rest: the draws are a function of (seed, epoch, image). A second pass over
the images sees other draws of them.

The network knows its training images, so its draws for them are better than for new ones, and the model learns to trust
them too much: its log-odds rank candidates of one image, and are no probabilities. `measured` says how well on images kept out.

Not covered: hard negatives from other sources than the network's own draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from geobatch.geo import distance
from geobatch.methods.geotoken.config import GeoToken, Rewarding
from geobatch.methods.geotoken.draws import shared
from geobatch.methods.geotoken.examples import Batches, Examples
from geobatch.methods.geotoken.inputs import Context, places_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import RewardModel
from geobatch.methods.geotoken.train import Batch, Fit

#: Images that are drawn for together: more would only need more memory.
_TOGETHER = 256


class RewardFit(Fit):
    """One worker's training of the reward model.

    Args:
        trained: the network whose draws are judged and whose trunk the model begins with.
        examples, held, rank, world, local_world, device, wrap: as for `Fit`.
    """

    remedy = "set --bf16 False"

    def __init__(
        self,
        rewarding: Rewarding,
        trained: GeoTokenModel,
        examples: Examples,
        *,
        held: Examples | None = None,
        rank: int = 0,
        world: int = 1,
        local_world: int = 1,
        device: str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.rewarding, self.trained = rewarding, trained.to(device).eval()
        super().__init__(
            trained.config,
            rewarding.training,
            examples,
            held=held,
            rank=rank,
            world=world,
            local_world=local_world,
            device=device,
            wrap=wrap,
        )

    def built(self, config: GeoToken) -> nn.Module:
        """The trunk as it was trained, a new head."""
        model = RewardModel(config, self.rewarding.hidden)
        model.begin(self.trained)
        return model

    def batch(self, step: int) -> Batch:
        """This worker's images of a step, draws for them (B, K, T), and which are right (B, K)."""
        context, _ = self.seen(step)
        rows = self.rows(step)
        epoch = step // self.steps_an_epoch
        return context, *self._drawn(self.batches, rows, context, f"{self.training.seed}/{epoch}")

    def _drawn(self, batches: Batches, rows: npt.NDArray[np.int64], context: Context, name: str) -> tuple[Tensor, Tensor]:
        rewarding = self.rewarding
        codes: list[Tensor] = []
        for at in range(0, len(rows), _TOGETHER):
            ids = [f"{name}/{row}" for row in rows[at : at + _TOGETHER].tolist()]
            part = context[at : at + _TOGETHER]
            draws = shared(self.trained, part, ids, samples=rewarding.samples, temperature=rewarding.temperature)
            codes.append(draws.codes_RT.repeat_interleave(draws.count_R, dim=0))
        # A copy, since autograd refuses what was made in inference mode.
        drawn = torch.cat(codes).clone()
        latitude, longitude = places_of(drawn.cpu().numpy(), batches.config)
        true = (np.repeat(values, rewarding.samples) for values in batches.places(rows))
        right = distance.within(distance.haversine_km(latitude, longitude, *true), rewarding.within_km)
        shape = (len(rows), rewarding.samples)
        return drawn.unflatten(0, shape), torch.from_numpy(right.astype(np.int64)).to(self.device).reshape(shape)

    @torch.no_grad()
    def measured(self, held: Examples) -> dict[str, float]:
        """Figures on images kept out.

        Returns:
            `loss` (nats) and `loss_constant` of the best answer that is the same for all, `auc` over all draws (left out where
            none, or all, are right),
            `right_mean` the share of draws that are right, `right_reward` and `right_any` the share of images whose draw of
            the highest reward, and any draw, is.
        """
        batches = Batches(self.batches.config, held)
        assert isinstance(self.model, RewardModel)
        self.model.eval()
        odds: list[Tensor] = []
        rights: list[Tensor] = []
        for at in range(0, len(batches), _TOGETHER):
            rows = np.arange(at, min(at + _TOGETHER, len(batches)))
            context = batches.take(rows)[0].to(self.device)
            codes, right = self._drawn(batches, rows, context, "held")
            logits = self.model.logits(context, codes).float()
            odds.append((logits[..., 1] - logits[..., 0]).cpu())
            rights.append(right.cpu())
        return judged(torch.cat(odds), torch.cat(rights))


def judged(odds_NK: Tensor, right_NK: Tensor) -> dict[str, float]:
    """What `RewardFit.measured` returns, from log-odds and truth."""
    flat, truth = odds_NK.flatten().double(), right_NK.flatten().double()
    share = float(truth.mean())
    entropy = -sum(p * np.log(p) for p in (share, 1 - share) if p > 0)
    ranks = np.unique(flat.numpy(), return_inverse=True, return_counts=True)
    middle = (np.cumsum(ranks[2]) - (ranks[2] - 1) / 2)[ranks[1]]
    positive, negative = float(truth.sum()), float((1 - truth).sum())
    above = float((middle * truth.numpy()).sum()) - positive * (positive + 1) / 2
    best = right_NK.gather(1, odds_NK.argmax(1, keepdim=True))
    area = {"auc": above / (positive * negative)} if positive * negative else {}
    return {
        "loss": float(functional.binary_cross_entropy_with_logits(flat, truth)),
        "loss_constant": abs(float(entropy)),
        **area,
        "right_mean": share,
        "right_reward": float(best.double().mean()),
        "right_any": float(right_NK.amax(1).double().mean()),
    }
