"""Decode, the whole stage in its sandbox, against plain Pillow in this process: full decode, then one Lanczos filter.

The stage also takes the fingerprint and reads EXIF, which plain Pillow does not have to. The 12-megapixel JPEGs are made:
noise with the spectrum of photographs (amplitude falling as 1/f), grey stronger than colour, quality 90, 4:2:0. Where the
real data is there, real photographs of seven megapixels and more go the same way, and MobileNet's embeddings of both
pictures are compared: the cosine that is stated is the least.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from geobatch.image import Decode
from geobatch.image.config import DecodeConfig, fit
from geobatch.image.frames import Picture
from geobatch.image.picture import Decoder
from geobatch.image.sandbox import Sandbox
from tests.image.made import Pixels, encoded, images

ROUNDS = 5
SIDE = 336


def run() -> list[dict[str, object]]:
    """Medians of five alternating rounds."""
    made = [encoded(photograph(4000, 3000, seed), "JPEG", quality=90) for seed in range(4)]
    rows = [_against_pillow("12-megapixel JPEGs, made", made)]
    if folder := os.environ.get("GEOBATCH_REALDATA"):
        rows.append(_against_pillow("real JPEGs of 7 to 12 megapixels", _real(Path(folder))))
    small = [encoded(photograph(48, 48, seed), "JPEG", quality=90) for seed in range(50)] * 40
    rows.append(_sandbox("the sandbox on 48-pixel JPEGs", small))
    rows.append(_sandbox("the sandbox on 12-megapixel JPEGs", made))
    return rows


def photograph(width: int, height: int, seed: int) -> Pixels:
    """Noise with the amplitude spectrum of natural images, 1/f."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = np.inf
    planes = []
    for strength in (1.0, 0.35, 0.35):
        shape = frequency.shape
        spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append((128 + 48 * strength * plane / plane.std()).clip(0, 255).astype(np.uint8))
    return np.asarray(Image.fromarray(np.dstack(planes), "YCbCr").convert("RGB"))


def _real(folder: Path) -> list[bytes]:
    paths = sorted(path for path in (folder / "geotagged_photos").iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return [path.read_bytes() for path in paths if np.prod(Image.open(path).size) > 7e6][:6]


def _against_pillow(name: str, contents: list[bytes]) -> dict[str, object]:
    stage, table = Decode(DecodeConfig(side=SIDE)), images(*contents)
    ours, theirs = _alternate(lambda: stage(table), lambda: [_plain(data) for data in contents])
    found = stage(table)
    stage.close()
    ours, theirs = (1e3 * spent / len(contents) for spent in (ours, theirs))
    measured = f"{ours:.1f} ms an image against {theirs:.1f} ms, {len(contents)} images, median of {ROUNDS} alternating rounds"
    if embed := _embedder():
        cosines = []
        for row, data in zip(found.select(["picture", "picture_width", "picture_height"]).to_pylist(), contents, strict=True):
            shape = row["picture_height"], row["picture_width"], 3
            picture = np.frombuffer(row["picture"], np.uint8).reshape(shape)
            cosines.append(float(embed(picture) @ embed(_plain(data))))
        measured += f"; least cosine between the embeddings {min(cosines):.4f}"
        if min(cosines) < 0.99:
            raise AssertionError(f"{name}: {measured}")
    return {"name": f"Decode, {name}", "rival": "plain Pillow", "ratio": theirs / ours, "measured": measured}


def _plain(data: bytes) -> Pixels:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(image.resize(fit(*image.size, SIDE), Image.Resampling.LANCZOS))


def _sandbox(name: str, contents: list[bytes]) -> dict[str, object]:
    config = DecodeConfig(side=SIDE)
    box, decoder, views = Sandbox(config), Decoder(config), [memoryview(data) for data in contents]
    ours, theirs = _alternate(
        lambda: box.decode(views, lambda position: hashlib.sha256(views[position]).hexdigest()),
        lambda: [_in_process(decoder, data) for data in contents],
    )
    box.close()
    ours, theirs = (1e6 * spent / len(contents) for spent in (ours, theirs))
    measured = f"{ours:.0f} µs an image against {theirs:.0f} µs, median of {ROUNDS} alternating rounds"
    return {
        "name": f"Decode, {name}",
        "rival": "the same decoder in this process",
        "ratio": theirs / ours,
        "measured": measured,
    }


def _in_process(decoder: Decoder, data: bytes) -> tuple[str, Picture]:
    return hashlib.sha256(data).hexdigest(), decoder.decode(data)


def _embedder() -> Callable[[Pixels], NDArray[np.float32]] | None:
    folder = os.environ.get("GEOBATCH_REALDATA")
    if not folder:
        return None
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(Path(folder) / "weights" / "hf_mobilenet_v1_0.25_224").eval()

    def embed(picture: Pixels) -> NDArray[np.float32]:
        image = ImageOps.fit(Image.fromarray(picture), (224, 224), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            vector: NDArray[np.float32] = model(pixels).pooler_output.flatten().numpy()
        return vector / np.linalg.norm(vector)

    return embed


def _alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for work, spent in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            work()
            if round_:  # the first one starts the process and warms the caches
                spent.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    for row in run():
        print(row)
