"""What a fine-tuning needs on each GPU, before anything is downloaded: the figures behind `--dry-run`.

Weights and adapters are counted, not estimated: the model is built on the `meta` device and the projections that LoRA goes to
are read off it. Activations follow from what a decoder layer keeps for its backward pass under bf16 autocast, with float32
adapters on a frozen bf16 base, per token, in bytes, where h is the hidden width, I the MLP's, Q and K the widths of queries and
of keys:

    every layer, kept by checkpointing        2h            its input
    one layer at a time, computed again:
        RMS norms                             4h each       the float32 input: 4 norms in Gemma 3, 2 in Qwen2.5-VL
        norms of queries and keys (Gemma)     4(Q + K)
        inputs of the adapters                2 · width     a bf16 copy for each projection that has one
        attention                             8Q            queries, keys, values, output; keys repeated for every head
        MLP                                   6I            gate, its activation, up
        gradients on the way through it       6I + 14h      at the down projection, where they are widest
    masks                                     4T or 3T      booleans of both kinds of layers and their bf16 form

Logits are the trap: 12 bytes a position and word (log-probabilities and two gradients, float32) are 3 MiB a position with
Gemma's 262,208 words, 29 GiB for all 10,000. So only positions of answers get any, `logits` of them at once (`student`).

DDP keeps the whole base on each GPU; FSDP a share of it, and whole for a while the layer in use, the next one, the buffer it
arrives in, and the word embeddings, which belong to no layer.

Held against what torch's allocator reported on CPU for tiny models of both families: five shapes of layers came to 1.00 to 1.06
of it, eight whole students with a picture to 0.98 to 1.11 (`tests` asks for 25 %). With eager attention T² · heads would come
on top: SDPA is taken for granted. What nobody derives (CUDA's context, NCCL's buffers, fragmentation) is stated below as
customary and was not measured: no GPU was there.

Not covered: adapters on the vision tower, training it, quantised bases, tensor or context parallelism.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import nn

from geobatch.methods.geolocsft.architectures import PROJECTIONS, Layout, layout, on_meta

Sharding = Literal["ddp", "fsdp"]

GIB = 1 << 30

#: CUDA's context and the workspaces of its libraries; NCCL's buffers where GPUs talk. Customary figures, not measured.
CONTEXT, TALK = round(0.6 * GIB), round(1.0 * GIB)

#: What the allocator loses between blocks, as a share of the activations. Customary, not measured.
FRAGMENTED = 0.10

#: Share of a card that a plan may fill (an 80 GB card reports 79.2 GiB), and that DDP may fill and still be recommended.
FILLED, ROOMY = 0.95, 0.85

#: Bytes a position and word of logits and their gradients take at their peak.
_LOGIT = 12


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One fine-tuning, as its memory sees it."""

    rank: int = 32
    """Rank of the adapters."""

    targets: tuple[str, ...] = PROJECTIONS
    """Projections of the language model that get one."""

    tokens: int = 10_000
    """Longest sequence, picture included."""

    typical: int = 2_000
    """Length of a usual sequence."""

    logits: int = 2_048
    """Positions of answers whose logits exist at once, all sequences together (`student.LOGITS`)."""

    micro_batch: int = 1
    """Sequences that go through a GPU together."""

    pixels: tuple[int, int] = (1024, 768)
    """Width and height of a picture as the processor gets it."""

    sharding: Sharding = "fsdp"
    """Whether every GPU holds the base ("ddp") or a share of it ("fsdp")."""

    gpus: int = 8
    """GPUs that train together."""

    gib: float = 80.0
    """Memory of each, GiB."""


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU, by what they are for.

    Fields:
        weights: the frozen base in bf16, or this GPU's share of it.
        gathered: what FSDP holds whole for a while.
        adapters: LoRA's float32 weights.
        training: their gradients (under DDP twice: its buckets) and AdamW's two moments.
        kept: inputs of all layers, and the masks.
        computing: the widest moment beside these: one layer computed again, the logits, the vision tower's pass, or
            AdamW's temporary copies.
        overhead: CUDA, NCCL, fragmentation.
    """

    weights: int
    gathered: int
    adapters: int
    training: int
    kept: int
    computing: int
    overhead: int

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(getattr(self, each.name) for each in fields(self))


def adapted(config: Any, targets: Sequence[str] = PROJECTIONS) -> list[tuple[int, int]]:
    """(inputs, outputs) of every linear layer of the language model whose name ends in one of `targets`."""
    body: Any = on_meta(config)
    language = body.model.language_model
    return [
        (module.in_features, module.out_features)
        for name, module in language.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]


def adapter_parameters(config: Any, rank: int, targets: Sequence[str] = PROJECTIONS) -> int:
    """Trainable parameters of a LoRA of that rank: rank · (inputs + outputs) for each adapted layer."""
    return sum(rank * (inputs + outputs) for inputs, outputs in adapted(config, targets))


def layer_bytes(model: Layout, targets: Sequence[str] = PROJECTIONS) -> int:
    """Bytes a token takes while one layer is computed again and differentiated; the table at the top, summed."""
    width, middle = model.hidden, model.intermediate
    queries, keys = model.heads * model.head, model.key_value_heads * model.head
    gemma = model.family == "gemma3"
    norms = 4 * width * (4 if gemma else 2) + (4 * (queries + keys) if gemma else 0)
    reads = {"o_proj": queries, "down_proj": middle}
    copies = 2 * sum(reads.get(name, width) for name in targets)
    return norms + copies + 8 * queries + 6 * middle + 6 * middle + 14 * width


def mask_bytes(model: Layout, tokens: int) -> int:
    """Attention masks of one sequence: booleans, one for each kind of layer, and the additive form in bf16."""
    return (4 if model.family == "gemma3" else 3) * tokens**2


def tower_bytes(model: Layout, pixels: tuple[int, int]) -> int:
    """The vision tower's pass over one picture; it is frozen, so nothing of it is kept."""
    tower = model.tower
    side = tower.side or math.isqrt(math.prod(pixels))
    wide = 2 * tower.intermediate * (3 if tower.gated else 2) + 12 * tower.hidden
    return tower.patches(*pixels) * wide + 3 * side**2 * (4 + 2)


def need(model: Layout, adapters: int, plan: Plan, tokens: int | None = None) -> Need:
    """Bytes on each GPU.

    Args:
        model: what is fine-tuned.
        adapters: trainable parameters (`adapter_parameters`).
        tokens: length of the sequences; default: the plan's longest.
    """
    tokens = plan.tokens if tokens is None else tokens
    shares = plan.gpus if plan.sharding == "fsdp" else 1
    own = math.ceil(adapters / shares)
    kept = plan.micro_batch * (2 * model.hidden * tokens * (model.layers + 1) + mask_bytes(model, tokens))
    moments = (
        plan.micro_batch * tokens * layer_bytes(model, plan.targets),
        min(plan.micro_batch * tokens, plan.logits) * model.vocabulary * _LOGIT,
        plan.micro_batch * tower_bytes(model, plan.pixels) - kept,  # nothing is kept yet when the tower runs
        8 * own - kept,  # nothing is kept any more when AdamW steps
    )
    computing = max(moments)
    buckets = 4 if plan.sharding == "ddp" and plan.gpus > 1 else 0
    return Need(
        weights=math.ceil(2 * model.parameters / shares),
        gathered=2 * (3 * model.widest_layer + model.embeddings) if shares > 1 else 0,
        adapters=4 * own,
        training=(4 + 8 + buckets) * own,
        kept=kept,
        computing=computing,
        overhead=CONTEXT + (TALK if plan.gpus > 1 else 0) + round(FRAGMENTED * (kept + computing)),
    )


def largest(model: Layout, adapters: int, plan: Plan, tokens: int | None = None) -> int:
    """The largest micro-batch that fits, 0 if not even one sequence does."""

    def fits(size: int) -> bool:
        return need(model, adapters, replace(plan, micro_batch=size), tokens).total <= FILLED * plan.gib * GIB

    if not fits(1):
        return 0
    high = 2
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def recommended(model: Layout, adapters: int, plan: Plan) -> Sharding:
    """DDP where the plan fits so with room to spare, since it gathers nothing; else FSDP."""
    alone = need(model, adapters, replace(plan, sharding="ddp")).total
    return "ddp" if plan.gpus == 1 or alone <= ROOMY * plan.gib * GIB else "fsdp"


def report(config: Any, plan: Plan | None = None, name: str = "") -> str:
    """A table a person reads and a verdict.

    Args:
        config: of a Gemma 3 or Qwen2.5-VL in `transformers` (`geobatch.methods.geolocsft.architectures` has the presets').
        name: what the heading calls the model.

    Raises:
        UserError: another family.
    """
    plan = plan or Plan()
    model, adapters = layout(config), adapter_parameters(config, plan.rank, plan.targets)
    long, usual = need(model, adapters, plan), need(model, adapters, plan, plan.typical)
    shared = plan.sharding == "fsdp" and plan.gpus > 1
    share = "its share of the base, bf16" if shared else "the base, bf16"
    rows = [
        (share, long.weights, usual.weights),
        ("gathered for a while", long.gathered, usual.gathered),
        ("adapters, float32", long.adapters, usual.adapters),
        ("their gradients and AdamW", long.training, usual.training),
        ("inputs of all layers, masks", long.kept, usual.kept),
        ("one layer again, or logits", long.computing, usual.computing),
        ("CUDA, NCCL, fragmentation", long.overhead, usual.overhead),
        ("in all", long.total, usual.total),
    ]
    host = f"\n  host memory while a machine's workers load, one after another: {2 * model.parameters / GIB:.0f} GiB"
    seen = model.tower.image_tokens(*plan.pixels)
    heading = (
        f"{name or model.family}: {model.parameters / 1e9:.2f} B parameters, of them {model.vision / 1e9:.2f} B that see; "
        f"LoRA of rank {plan.rank}: {adapters:,} trainable ({adapters / model.parameters:.2%})\n"
        f"{plan.gpus} x {plan.gib:g} GiB, {plan.sharding}, micro-batch {plan.micro_batch}; a picture is {seen:,} tokens"
    )
    table = "\n".join(f"  {what:<28}{a / GIB:>10.1f}{b / GIB:>10.1f}" for what, a, b in rows if a or b)
    columns = f"  {'GiB on each GPU':<28}{plan.tokens:>7,} tk{plan.typical:>7,} tk"
    return f"{heading}\n{columns}\n{table}{host if shared else ''}\n{_verdict(model, adapters, plan, long)}"


def _verdict(model: Layout, adapters: int, plan: Plan, long: Need) -> str:
    best = recommended(model, adapters, plan)
    kinds: tuple[Sharding, ...] = ("ddp", "fsdp") if plan.gpus > 1 else (plan.sharding,)
    sizes = {
        kind: [largest(model, adapters, replace(plan, sharding=kind), tokens) for tokens in (plan.tokens, plan.typical)]
        for kind in kinds
    }
    room = "; ".join(f"{kind} {a} of {plan.tokens:,} tokens, {b} of {plan.typical:,}" for kind, (a, b) in sizes.items())
    text = f"largest micro-batch that fits: {room}"
    if long.total <= FILLED * plan.gib * GIB:
        advice = ""
        if plan.gpus > 1 and best != plan.sharding:
            advice = "; ddp has room as well and is faster" if best == "ddp" else "; fsdp would leave more room"
        return f"{text}\nfits: {long.total / GIB:.1f} of {plan.gib:g} GiB{advice}"
    return f"{text}\ndoes not fit: {long.total / GIB:.1f} of {plan.gib:g} GiB; {_cure(model, adapters, plan, sizes)}"


def _cure(model: Layout, adapters: int, plan: Plan, sizes: dict[Sharding, list[int]]) -> str:
    """The smallest change that makes it fit: micro-batch, then sharding, then more GPUs, then length."""
    for kind in (plan.sharding, *sizes):
        if size := sizes.get(kind, [0])[0]:
            return f"take a micro-batch of {min(size, plan.micro_batch)}" + (f" with {kind}" if kind != plan.sharding else "")
    one = replace(plan, micro_batch=1, sharding="fsdp" if plan.gpus > 1 else "ddp")
    for gpus in (2, 4, 8, 16, 32):
        if gpus > plan.gpus and largest(model, adapters, replace(one, gpus=gpus, sharding="fsdp")):
            return f"take {gpus} such GPUs with fsdp"
    for tokens in range(plan.tokens - plan.tokens % 256, 255, -256):
        if largest(model, adapters, one, tokens):
            return f"cut sequences at {tokens:,} tokens with {one.sharding} and a micro-batch of 1"
    return "take larger GPUs or a smaller model"
