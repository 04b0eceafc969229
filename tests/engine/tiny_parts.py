"""What every tiny model is made of: a BPE of a few hundred words, and a folder as the published ones have it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers


def bpe(special: list[str], corpus: list[str]) -> Tokenizer:
    """A BPE over characters with bytes to fall back on, as Gemma's is: a newline is the token "\\n"."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|\n+| ?[^\s\d]+|\s"), "isolated")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=[chr(code) for code in range(32, 127)],
        show_progress=False,
    )
    made.train_from_iterator([*corpus, *["\n\n\n\n", "\n\n\n", "\n\n"] * 3], trainer)
    # The trainer knows byte tokens as special ones only, which decoding would leave out.
    told = json.loads(made.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if not token["content"].startswith("<0x")]
    made = Tokenizer.from_str(json.dumps(told))
    missing = [run for run in ("\n", "\n\n", "\n\n\n", "\n\n\n\n") if len(made.encode(run).ids) != 1]
    assert not missing, f"newline runs that are no token: {missing}"
    return made


def saved(folder: Path, architecture: Any, config: Any, processor: Any, ends: list[int], seed: int, sharpness: float) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(config).float().eval()
        if config.model_type == "gemma3":  # its projection begins at zero: no picture would be seen
            torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
        with torch.no_grad():  # tied embeddings of 0.02 leave no word likelier than another, whatever the layers say
            model.get_input_embeddings().weight.mul_(sharpness)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    if config.model_type == "gemma3":
        published_names(folder / "model.safetensors")
    processor.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps({"seed": seed, "weights": "random"}))
    return folder


def published_names(weights: Path) -> None:
    """The vision tower's names as the published Gemma 3 has them; transformers 5.19 saves them without "vision_model"."""
    tensors = load_file(weights)
    published = {re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name): tensor
                 for name, tensor in tensors.items()}  # fmt: skip
    save_file(published, weights, metadata={"format": "pt"})
