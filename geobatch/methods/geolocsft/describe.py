"""The model card that lies beside an adapter: what it was trained on, from what, how, and how well it does.

Written from the same card the main job reads, so that the two cannot disagree. The head is the YAML the hub's model pages read.
"""

from __future__ import annotations

from typing import Any

from geobatch.schema import RADII_KM


def describe(card: dict[str, Any], data: str) -> str:
    """README.md of the adapter.

    Args:
        card: the model's `geobatch.json`.
        data: SHA-256 of the training examples.
    """
    tuning = card["config"]["tuning"]
    adapters, spent = tuning["lora"], card["training"]
    form = "reasoning, then an <answer> tag" if card["form"] == "tag" else "a geo-caption as JSON"
    lines = [
        "---",
        f"base_model: {card['base']}",
        "library_name: peft",
        "pipeline_tag: image-text-to-text",
        "tags: [geolocation, lora]",
        "---",
        "",
        "# Where was this photograph taken?",
        "",
        "A LoRA adapter in the manner of GeoLocSFT (arXiv 2506.01277), trained by geobatch. It answers with "
        f"{form}; coordinates are decimal degrees.",
        "",
        "## Data",
        "",
        f"{card['images']:,} pictures with known coordinates and curated answers (SHA-256 of the examples `{data}`).",
        "It knows the places these came from better than others, and has what biases they have.",
        "",
        "## Base",
        "",
        f"`{card['base']}`, fingerprint `{card['base_fingerprint']}`. The adapter is of no use on another.",
        "",
        "## Training",
        "",
        f"LoRA of rank {adapters['rank']}, alpha {adapters['alpha']}, dropout {adapters['dropout']}, on the language model"
        f"{' and the vision tower' if adapters['vision'] else ''}. AdamW, {tuning['learning_rate']} at most,",
        f"{tuning['schedule']} after {tuning['warm_up']} steps of warm-up; {spent['steps']:,.0f} steps of {tuning['batch']} "
        f"pictures; last loss {spent['loss']}.",
        "All settings are in `geobatch.json` of the folder above, the loss of every step in `history.json`.",
        "",
        "## Figures",
        "",
        *_figures(card["validation"]),
        "",
    ]
    return "\n".join(lines)


def _figures(found: dict[str, Any]) -> list[str]:
    if not found:
        return ["None were measured: no pictures were kept out of training."]
    shares = " | ".join(f"{100 * found[f'within_{km}km']:.1f} %" for km in RADII_KM)
    median = "none" if found["median_km"] is None else f"{found['median_km']:,.1f} km"
    return [
        f"Greedy answers to {found['images']:,} pictures kept out of training, great-circle distance to the truth:",
        "",
        "| " + " | ".join(f"≤ {km} km" for km in RADII_KM) + " | median | name a place | loss (nats a token) |",
        "|" + " --- |" * (len(RADII_KM) + 3),
        f"| {shares} | {median} | {100 * found['answered']:.1f} % | {found['loss']} |",
    ]
