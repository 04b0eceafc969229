"""K draws from the model at the cost of the distinct prefixes only.

K independent draws for one image share most of their first tokens: 30 draws of 13 tokens from a trained demo model visit
117 distinct prefixes, not 390; of 7 tokens 49, not 210. So each distinct prefix goes through the decoder once, and the c
draws that stand on it are split among its children by one multinomial draw. That is exactly the distribution of K
independent draws: given the prefix, c independent choices from the same distribution have multinomial counts.

The multinomial draw is made by giving each of the K draws a uniform number of its own for each token, and counting where
these fall on the prefix's cumulative distribution. The numbers come from a Philox generator keyed by a hash of (image_id,
seed), so an image's draws do not depend on its batch, its worker or the time, and `shared`, `independent` and `naive` are
coupled: given the same probabilities they return the same candidates, which is what the tests check first. A
probability's last bits do depend on the batch's shape (other kernels, other order of sums), so a number that falls between
two such values could move a draw; in 210,000 choices, in batches of 64, 50 and 7, none did.

Not covered: nucleus or top-k truncation (the paper uses plain sampling at T = 0.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.layers import Rows
from geobatch.methods.geotoken.model import GeoTokenModel


@dataclass(frozen=True)
class Draws:
    """R distinct candidates of a batch, images in rising order, each image's candidates in the order of their codes."""

    codes_RT: Tensor
    image_R: Tensor  # row of the batch
    count_R: Tensor  # how many of the K draws
    log_probability_R: Tensor  # natural, of the model itself (T = 1), float64
    tempered_R: Tensor  # at the temperature of the draws
    prefixes: int  # distinct prefixes that went through the decoder


def uniforms(ids: Sequence[str], seed: int, samples: int, length: int) -> Tensor:
    """(B, samples, length) numbers in [0, 1), a function of each id and the seed only."""
    out = np.empty((len(ids), samples, length))
    for row, name in enumerate(ids):
        digest = blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
        out[row] = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random((samples, length))
    return torch.from_numpy(out)


def choose(tempered: Tensor, uniform: Tensor) -> Tensor:
    """(N, values) log-probabilities and (N,) uniform numbers -> (N,) values, by the inverse of the distribution function."""
    cumulative = tempered.exp().cumsum(-1)
    # The last entry is 1 but for rounding; a uniform number beyond it must not choose a value that does not exist.
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(-1)


@torch.inference_mode()
def shared(
    model: GeoTokenModel, context: Context, ids: Sequence[str], *, samples: int = 30, temperature: float = 0.7, seed: int = 0
) -> Draws:
    """`samples` draws for each image of the batch, each distinct prefix computed once.

    Args:
        ids: B names; with `seed` they decide the draws.
    """
    numbers = uniforms(ids, seed, samples, model.config.length).to(context.views_BVD.device).flatten(0, 1)
    memory = model.encode(context)
    kept = model.keep(memory, len(numbers))
    image_R = torch.arange(len(context), device=numbers.device)
    row_N = image_R.repeat_interleave(samples)  # the prefix each draw stands on
    codes_Rt = image_R.new_zeros(len(image_R), 0)
    log_R = torch.zeros(len(image_R), dtype=torch.float64, device=numbers.device)
    tempered_R, prefixes = log_R, 0
    for t, values in enumerate(model.config.vocabularies):
        logits = model.step(memory, Rows.of(image_R, len(context)), codes_Rt, kept).double()
        prefixes += len(image_R)
        log, tempered = logits.log_softmax(-1), (logits / temperature).log_softmax(-1)
        token_N = choose(tempered[row_N], numbers[:, t])
        child, which_N = torch.unique(row_N * values + token_N, return_inverse=True)
        parent, token, at = _branch(child, values, len(image_R))
        row_N = at.argsort()[which_N]
        for layer in kept:
            layer.branch(len(image_R), parent[len(image_R) :], t + 1)
        image_R = image_R[parent]
        codes_Rt = torch.cat([codes_Rt[parent], token[:, None]], dim=1)
        log_R, tempered_R = log_R[parent] + log[parent, token], tempered_R[parent] + tempered[parent, token]
    return _distinct(codes_Rt[row_N], image_R[row_N], log_R[row_N], tempered_R[row_N], prefixes)


def _branch(child: Tensor, values: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Children (row · values + token, rising) -> parents, tokens and numbers in `child` of the next prefixes.

    Each prefix's first child takes its parent's row, where the keys and values already are; the others go behind.
    """
    parent = child // values
    first = torch.ones_like(parent, dtype=torch.bool)
    first[1:] = parent[1:] != parent[:-1]
    at = torch.cat([first.nonzero()[:, 0], (~first).nonzero()[:, 0]])
    return parent[at], child[at] % values, at


@torch.inference_mode()
def independent(
    model: GeoTokenModel, context: Context, ids: Sequence[str], *, samples: int = 30, temperature: float = 0.7, seed: int = 0
) -> Draws:
    """The same draws, each through the decoder by itself, keys and values kept, all in one batch: the benchmark's rival."""
    numbers = uniforms(ids, seed, samples, model.config.length).to(context.views_BVD.device).flatten(0, 1)
    memory = model.encode(context)
    image_N = torch.arange(len(context), device=numbers.device).repeat_interleave(samples)
    rows = Rows.of(image_N, len(context))
    codes_Nt = image_N.new_zeros(len(image_N), 0)
    log_N = torch.zeros(len(image_N), dtype=torch.float64, device=numbers.device)
    tempered_N, kept = log_N, model.keep(memory, len(image_N))
    for t in range(model.config.length):
        logits = model.step(memory, rows, codes_Nt, kept).double()
        tempered = (logits / temperature).log_softmax(-1)
        token = choose(tempered, numbers[:, t])[:, None]
        codes_Nt = torch.cat([codes_Nt, token], dim=1)
        log_N = log_N + logits.log_softmax(-1).gather(1, token)[:, 0]
        tempered_N = tempered_N + tempered.gather(1, token)[:, 0]
    return _distinct(codes_Nt, image_N, log_N, tempered_N, codes_Nt.numel())


@torch.inference_mode()
def naive(
    model: GeoTokenModel, context: Context, ids: Sequence[str], *, samples: int = 30, temperature: float = 0.7, seed: int = 0
) -> Draws:
    """The same draws by the textbook loop: no kept keys and values, one draw after the other. Slow; for tests."""
    numbers = uniforms(ids, seed, samples, model.config.length).to(context.views_BVD.device)
    memory = model.encode(context)
    image_N = torch.arange(len(context), device=numbers.device).repeat_interleave(samples)
    drawn, logs, tempereds = [], [], []
    for k in range(samples):
        codes_BT = torch.zeros(len(context), model.config.length, dtype=torch.long, device=numbers.device)
        log = tempered = torch.zeros(len(context), dtype=torch.float64, device=numbers.device)
        for t in range(model.config.length):
            logits = model.logits(memory, codes_BT)[t].double()
            scaled = (logits / temperature).log_softmax(-1)
            codes_BT[:, t] = choose(scaled, numbers[:, k, t])
            log = log + logits.log_softmax(-1).gather(1, codes_BT[:, t : t + 1])[:, 0]
            tempered = tempered + scaled.gather(1, codes_BT[:, t : t + 1])[:, 0]
        drawn.append(codes_BT)
        logs.append(log)
        tempereds.append(tempered)
    stacked = torch.stack(drawn, dim=1).flatten(0, 1)
    log_N, tempered_N = (torch.stack(values, dim=1).flatten() for values in (logs, tempereds))
    return _distinct(stacked, image_N, log_N, tempered_N, stacked.numel())


def _distinct(codes_NT: Tensor, image_N: Tensor, log_N: Tensor, tempered_N: Tensor, prefixes: int) -> Draws:
    keys, row_N, count_R = torch.unique(
        torch.cat([image_N[:, None], codes_NT], dim=1), dim=0, return_inverse=True, return_counts=True
    )
    one = torch.empty_like(keys[:, 0]).scatter_(0, row_N, torch.arange(len(row_N), device=row_N.device))
    return Draws(keys[:, 1:], keys[:, 0], count_R, log_N[one], tempered_N[one], prefixes)


@torch.inference_mode()
def greedy(model: GeoTokenModel, context: Context) -> tuple[Tensor, Tensor]:
    """The likeliest token at each step: (B, T) codes and (B,) log-probabilities."""
    memory = model.encode(context)
    image_B = torch.arange(len(context), device=context.views_BVD.device)
    rows = Rows.of(image_B, len(context))
    codes_Bt, kept = image_B.new_zeros(len(context), 0), model.keep(memory, len(context))
    log_B = torch.zeros(len(context), dtype=torch.float64, device=image_B.device)
    for _ in range(model.config.length):
        best, token = model.step(memory, rows, codes_Bt, kept).double().log_softmax(-1).max(-1)
        codes_Bt, log_B = torch.cat([codes_Bt, token[:, None]], dim=1), log_B + best
    return codes_Bt, log_B
