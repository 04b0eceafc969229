"""Low-rank adapters on a vision-language model: where they go, how many numbers they are, and the folder vLLM loads.

LoRA (arXiv 2106.09685) adds (alpha / r)·B·A to a frozen projection W. A starts as Kaiming noise, here drawn on the CPU module
by module in the order of their names, so that neither the device nor the number of workers changes it; B starts as zeros.
Adapters are float32 whatever the base is: at a learning rate of 2e-5 a bfloat16 weight of 0.01 does not move, its steps are
6e-5 wide.

The modules are chosen by name: the seven projections of every layer of the language model, and of the vision tower only if
asked; or the fewer that NGCG adapts. The short names alone would not do, since SigLIP's attention and Qwen's vision blocks use
the same ones. The choice is kept as one regular expression of the full names, which peft and vLLM read.

DoRA (arXiv 2402.09353) splits the adapted weight into rows' lengths and directions, m · (W + s·B·A) / ‖W + s·B·A‖, and trains
the lengths m too. They start as the rows' lengths of W, summed in float64 so that no device rounds them otherwise. vLLM reads
no such adapter, only what `merge` makes of it.

What `save` writes is what peft's own `save_pretrained` writes, minus its template of a model card and its question to the hub
whether the base has another vocabulary.

Not covered: rsLoRA, adapters on embeddings or heads; vLLM refuses the last.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geobatch.errors import UserError

if TYPE_CHECKING:  # 0.6 s or more to import, and settings name LoRA in jobs that never adapt anything
    import peft

Targets = Literal["projections", "ngcg"]

_SEVEN = r"(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
_FIVE = r"(?:self_attn\.[qkvo]_proj|mlp\.down_proj)"
_LANGUAGE = r"model\.language_model\.layers\.\d+\."
_IDEFICS = (r"model\.text_model\.layers\.\d+\.", r"model\.vision_model\.encoder\.layers\.\d+\.")
_INTERN = r"model\.vision_tower\.encoder\.layer\.\d+\."
_SIGLIP = r"(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])"

#: Full names of what may be adapted, by the base's `model_type`: language model, vision tower.
PLACES = {
    "gemma3": (_LANGUAGE + _SEVEN, r"model\.vision_tower(?:\.vision_model)?\.encoder\.layers\.\d+\." + _SIGLIP),
    "qwen2_5_vl": (
        _LANGUAGE + _SEVEN,
        r"model\.visual\.blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.(?:gate|up|down)_proj)",
    ),
    "internvl": (_LANGUAGE + _SEVEN, _INTERN + r"(?:attention\.(?:[qkv]_proj|projection_layer)|mlp\.fc[12])"),
    "idefics3": (_IDEFICS[0] + _SEVEN, _IDEFICS[1] + _SIGLIP),
    "smolvlm": (_IDEFICS[0] + _SEVEN, _IDEFICS[1] + _SIGLIP),
}

#: The same for NGCG (arXiv 2604.10721): q, k, v, o and down of the language model, q, k and v of the vision tower. Its code
#: chooses by short names, and `out_proj` among them is SigLIP's, so SmolVLM's tower is adapted there too; it names nothing of
#: Qwen's tower, whose one fused qkv stands for the three.
NGCG = {
    "qwen2_5_vl": (_LANGUAGE + _FIVE, r"model\.visual\.blocks\.\d+\.attn\.qkv"),
    "internvl": (_LANGUAGE + _FIVE, _INTERN + r"attention\.[qkv]_proj"),
    "idefics3": (_IDEFICS[0] + _FIVE, _IDEFICS[1] + r"self_attn\.(?:[qkv]|out)_proj"),
    "smolvlm": (_IDEFICS[0] + _FIVE, _IDEFICS[1] + r"self_attn\.(?:[qkv]|out)_proj"),
}

#: What peft calls the one adapter of a model, and puts into the names of its parameters.
_ADAPTER = "default"


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """The adapters."""

    rank: int = 32
    """Rank of each adapter (r)."""
    alpha: int = 64
    """Numerator of the scale alpha / r of each adapter."""
    dropout: float = 0.0
    """Share of an adapter's inputs dropped in training."""
    vision: bool = False
    """Whether the vision tower is adapted as well as the language model."""
    targets: Targets = "projections"
    """What is adapted: all seven projections of each layer (and all of the vision tower's), or those that NGCG names."""
    dora: bool = False
    """Whether the lengths of the adapted weights' rows are trained apart from their directions (DoRA)."""
    gaussian: bool = False
    """Whether A begins as normal noise of deviation 1 / rank, as NGCG's code has it, rather than as Kaiming's."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise UserError(
                f"LoRA of rank {self.rank}, alpha {self.alpha} and dropout {self.dropout} is none; "
                "use a rank and an alpha of at least 1 and a dropout below 1"
            )

    def pattern(self, model_type: str) -> str:
        """A regular expression of the full names of the adapted modules.

        Raises:
            UserError: no names are known for this kind of model.
        """
        places = PLACES if self.targets == "projections" else NGCG
        if model_type not in places:
            raise UserError(f"no LoRA modules are known for a {model_type!r} model; use one of {', '.join(places)}")
        language, vision = places[model_type]
        return f"(?:{language}|{vision})" if self.vision else f"(?:{language})"


@dataclass(frozen=True)
class Counts:
    """What is trained of a model.

    Args:
        modules: how many modules of each short name are adapted.
        trainable: parameters in the adapters.
        total: parameters of the base and the adapters.
    """

    modules: dict[str, int]
    trainable: int
    total: int

    def __str__(self) -> str:
        modules = ", ".join(f"{name} × {count}" for name, count in sorted(self.modules.items()))
        share = 100 * self.trainable / self.total
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2f} %), in {modules}"


def attach(model: nn.Module, lora: LoRA, seed: int = 0) -> peft.PeftModel:
    """`model` frozen, with fresh adapters (in place); its `config.model_type` says where they go.

    Raises:
        UserError: no names are known for this kind of model, or it has no module of those names.
    """
    import peft

    kind = str(cast(Any, model).config.model_type)
    pattern = lora.pattern(kind)
    if not any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
        raise UserError(f"this {kind} model has no module named {pattern}; use another version of its weights")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
    )
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=True)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(trainable(adapted)):
        if ".lora_A." in name:
            noise = torch.empty(parameter.shape, dtype=torch.float32)
            if lora.gaussian:
                nn.init.normal_(noise, std=1 / lora.rank, generator=generator)
            else:
                nn.init.kaiming_uniform_(noise, a=5**0.5, generator=generator)
            parameter.data.copy_(noise)
    if lora.dora:
        _lengths(adapted)
    return adapted


@torch.no_grad()
def _lengths(adapted: nn.Module) -> None:
    """Puts the rows' lengths of the frozen weights into DoRA's magnitudes, in float32 whatever the base is."""
    for module in adapted.modules():
        if (magnitudes := getattr(module, "lora_magnitude_vector", None)) is not None and _ADAPTER in magnitudes:
            weight = cast(Any, module).get_base_layer().weight
            magnitudes[_ADAPTER].weight.data = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).float()


def read(model: nn.Module, folder: Path) -> peft.PeftModel:
    """`model` (in place) with the adapters that `save` wrote to `folder`, frozen, and with their own alpha.

    peft alone lets an adapter of a deeper base pass, and leaves one of a shallower base half empty.

    Raises:
        UserError: there is no adapter, or it is of another base.
    """
    import peft

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # said better below
            adapted = peft.PeftModel.from_pretrained(cast(Any, model), str(folder), torch_device="cpu")
        own = {_outside(name) for name, _ in adapted.named_parameters() if ".lora_" in name}
        odd = sorted(own ^ load_file(folder / "adapter_model.safetensors").keys())
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder} holds no adapter of this base ({_line(error)}); give the base it was trained on") from error
    if odd:
        raise UserError(
            f"{folder} and this base differ in {len(odd)} adapters, {odd[0]} for one; give the base it was trained on"
        )
    return adapted


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the adapters."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def counts(model: nn.Module) -> Counts:
    """What `model` trains; of a model on the `meta` device, too."""
    parameters = list(model.parameters())
    names = Counter(name.split(".lora_A.")[0].rsplit(".", 1)[-1] for name, _ in trainable(model) if ".lora_A." in name)
    return Counts(
        dict(names), sum(each.numel() for each in parameters if each.requires_grad), sum(each.numel() for each in parameters)
    )


def tensors(
    model: nn.Module, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor.detach().cpu().clone()
) -> dict[str, Tensor]:
    """The adapters by their names in `adapter_model.safetensors`.

    Args:
        whole: what makes a parameter a tensor on the CPU; for a sharded model, one that gathers.
    """
    return {_outside(name): whole(parameter) for name, parameter in trainable(model)}


@torch.no_grad()
def put(
    model: nn.Module, adapters: dict[str, Tensor], parted: Callable[[Tensor, Tensor], Tensor] = lambda full, like: full
) -> None:
    """Puts adapters as `tensors` gives them into a model that has the same.

    Args:
        parted: what makes a whole tensor one like the parameter; for a sharded model, this worker's part.

    Raises:
        ValueError: their names differ.
    """
    own = {_outside(name): parameter for name, parameter in trainable(model)}
    if own.keys() != adapters.keys():
        odd = sorted(own.keys() ^ adapters.keys())
        raise ValueError(f"{len(odd)} adapters are on one side only, {odd[0]} for one")
    for name, parameter in own.items():
        parameter.copy_(parted(adapters[name], parameter))


def save(adapters: dict[str, Tensor], config: peft.LoraConfig, folder: Path) -> None:
    """Writes a PEFT adapter folder: `adapter_model.safetensors` and `adapter_config.json`.

    Args:
        adapters: as `tensors` gives them.
        config: `model.peft_config["default"]`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: each.contiguous() for name, each in adapters.items()}, folder / "adapter_model.safetensors", {"format": "pt"}
    )
    before, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = before


def config_of(model: nn.Module) -> Any:
    """The adapter's config, wherever in `model` peft put it."""
    import peft

    return next(part.peft_config[_ADAPTER] for part in model.modules() if isinstance(part, peft.PeftModel))


def _outside(name: str) -> str:
    """A parameter's name as the files have it: without peft's name of the adapter and without what wraps the model."""
    name = name[name.index("base_model.model.") :]
    return name.removesuffix(f".{_ADAPTER}.weight") + ("" if ".lora_magnitude_vector." in name else ".weight")
