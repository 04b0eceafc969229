"""Recipe: pages with places that are known, names that would do harm as markup, and a run's account."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from geobatch.geo.distance import haversine_km
from geobatch.geo.s2 import cell_ids, cell_tokens
from geobatch.report.page import Page, Run
from geobatch.report.tally import Tally
from geobatch.schema import RADII_KM, probability_column

HARM = (
    "</script><script>window.harm=1</script>.jpg",
    "<img src=x onerror=window.harm=2>.jpg",
    "a\"'&<b>.jpg",
    "100%25 \u2603 \U0001f30d#name.jpg",
    "http://example.com/x.png",
)


def picture(number: int) -> bytes:
    """A JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (48, 36), (40 * number % 256, 90, 200)).save(file, "JPEG")
    return file.getvalue()


def names(count: int) -> list[str]:
    """Names of images, the first ones those that would do harm."""
    plain = [f"s3://bucket/photographs/shard-{number // 1000:04d}.tar#IMG_{number:06d}.jpg" for number in range(count)]
    return [f"s3://bucket/photographs/{name}" for name in HARM][:count] + plain[len(HARM) :]


def places(count: int, seed: int, true: tuple[np.ndarray, np.ndarray], rejected: int = 0) -> pa.Table:
    """What a run says: places some way off the truth, the last `rejected` without one."""
    rng = np.random.default_rng(seed)
    off, turn = 10.0 ** rng.uniform(-3, 1.2, count), rng.uniform(0, 2 * np.pi, count)
    latitude = np.clip(true[0] + off * np.sin(turn), -89.9, 89.9)
    longitude = (true[1] + off * np.cos(turn) + 180) % 360 - 180
    area = np.array(cell_tokens(cell_ids(latitude, longitude, 6)), object)
    dead = np.arange(count) >= count - rejected
    latitude[dead], longitude[dead] = np.nan, np.nan
    error = haversine_km(latitude, longitude, *true)
    sure = np.clip(1 - np.log10(1 + haversine_km(latitude, longitude, *true)) / 5 + rng.normal(0, 0.1, count), 0, 1)

    def where(values: np.ndarray) -> pa.Array:
        return pa.array([None if lost else value for lost, value in zip(dead, values.tolist(), strict=True)])

    columns = {
        "image_id": names(count),
        "status": np.where(dead, "rejected", "placed"),
        **{name: pa.nulls(count, pa.string()) for name in ("chosen_by", "text")},
        **{
            name: pa.array([said if lost else None for lost in dead], pa.string())
            for name, said in (("stage", "decode"), ("reason", "broken"), ("detail", "OSError: <b>truncated</b>"))
        },
        "latitude": where(latitude),
        "longitude": where(longitude),
        "error_km": error,
        "radius_90_km": where(off * 200),
        "area": where(area),
        **{probability_column(km): where(np.clip(sure * (0.4 + 0.12 * at), 0, 1)) for at, km in enumerate(RADII_KM)},
    }
    return pa.table(columns)


def page(count: int, runs: int = 1, *, with_truth: bool = True, pictures: int = 8, rejected: int = 3, seed: int = 0) -> Page:
    """A page of `count` images; the truths of the first are far apart, so that a click hits one alone."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(-50, 65, count), rng.uniform(-170, 170, count)
    ids = names(count)
    made = []
    for number in range(runs):
        rows = places(count, seed + 1 + number, true, rejected)
        if not with_truth:
            rows = rows.set_column(rows.column_names.index("error_km"), "error_km", pa.array(np.full(count, np.nan)))
        tally = Tally()
        tally.add(rows, np.full(count, with_truth))
        account = {
            "tiles": [["images a second", "51.2"]],
            "pairs": [["time", "41 s"], ["cost", "0.12 USD"]],
            "seconds": [["Read", 5.0], ["Decode", 12.5]],
        }
        made.append(
            Run(
                name=f"run <{number + 1}>",
                places=rows,
                totals=tally.figures(),
                account=account,
                findings=[
                    {"title": "Levels", "sentence": "Half leave the truth at level 7.", "rows": [{"level": 7, "share": 0.5}]}
                ],
                facts=[("method", "geotoken")],
            )
        )
    images = pa.table(
        {
            "image_id": ids,
            "uri": [image_id.partition("#")[0] for image_id in ids],
            "latitude": pa.array(true[0] if with_truth else [None] * count, pa.float64()),
            "longitude": pa.array(true[1] if with_truth else [None] * count, pa.float64()),
            "country": [("Chile", "Norway", "<i>Mali</i>")[number % 3] for number in range(count)],
            "why": np.array([1 + number % 3 if number < pictures else 0 for number in range(count)], np.uint8),
        }
    )
    return Page(
        title="A page </title><script>window.harm=3</script>",
        note="note & <b>note</b>",
        images=images,
        runs=made,
        pictures={number: picture(number) for number in range(min(pictures, count))},
        details={0: {"candidates": [[10.0, 20.0], [11.0, 21.0]], "neighbours": [[12.0, 22.0]]}},
        sample="All are here.",
        density=np.tile(np.arange(180, dtype=np.uint8)[:, None], (1, 360)),
    )
