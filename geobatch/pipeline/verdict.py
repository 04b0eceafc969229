"""Is tonight's canary worse than its record? Distances image by image, and the record that they are compared with.

An image that was rejected counts as half the Earth's circumference away; one that nobody could read (`UNREAD`) says nothing of
the machine, and is left out. A canary is *worse* if both hold:

- ratio: the geometric mean of (tonight's distance + 1 km) over (the record's + 1 km) is at least `RATIO`;
- chance: were tonight as good as the record, every image as likely better as worse, a mean that bad would come in less than
  `CHANCE` of the nights (a permutation test of the logarithms' signs, one-sided; exact up to 13 images, beyond of 9,999 draws).

So one image that jumps across an ocean does not stop a night, and eight that each moved twice as far do. Seven images at least
must be in both, or no night could ever reach the chance of 0.01; 20 to 50 are better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.sink.unread import PASSING

#: A canary is worse if its distances grew by this factor and chance makes so bad a night this seldom.
RATIO, CHANCE = 1.25, 0.01

#: Images that must be in both.
LEAST = 7

#: What a rejected image counts as, in km.
LOST_KM = float(np.pi * EARTH_RADIUS_KM)

#: Reasons that say nothing of the machine, but of the store; a night that has them makes no record.
UNREAD = frozenset(PASSING)

#: Raised by hand when the form of canary.json changes.
VERSION = 1

Images = Sequence[Mapping[str, Any]]


def measured(rows: pa.Table, truth: Truth) -> list[dict[str, Any]]:
    """Each image that has a true place: its name, bytes, fate, and distance in km, rows of PLACE given."""
    at = truth.match(rows["image_id"].to_pylist())
    places = {axis: rows[axis].to_numpy(zero_copy_only=False).astype(np.float64) for axis in ("latitude", "longitude")}
    km = haversine_km(places["latitude"], places["longitude"], truth.latitude[at], truth.longitude[at])
    return [
        {
            **row,
            "distance_km": round(float(LOST_KM if row["reason"] or np.isnan(km[index]) else km[index]), 6),
        }
        for index, row in enumerate(rows.select(["image_id", "sha256", "reason"]).to_pylist())
        if at[index] >= 0
    ]


def judged(images: Images, record: Images | None) -> dict[str, Any]:
    """Whether distances are worse than a record's, by the rule at the top of this file.

    Args:
        images: tonight's, as `measured` gives them.
        record: the record's; None: there is none.

    Returns:
        "worse", "ratio", "chance" (null without a record, and where too few could be read), "compared", "rejected" and "unread"
        (images), "median_km" (of those that were read; null without any), and "said", a sentence.

    Raises:
        UserError: tonight's images are not the record's.
    """
    read = [each for each in images if each["reason"] not in UNREAD]
    unread = len(images) - len(read)
    median = float(np.median([each["distance_km"] for each in read])) if read else None
    told = {
        "median_km": None if median is None else round(median, 3),
        "rejected": sum(each["reason"] is not None for each in images),
        "unread": unread,
    }
    count = f"{len(read)} images" if read else "no image"
    within = count if median is None else f"{count}, half of them within {median:,.1f} km"
    none = {"worse": False, "ratio": None, "chance": None, **told}
    if record is None:
        kept = f"{unread} could not be read, so this is no record" if unread else "this is the record for later runs"
        return {**none, "compared": 0, "said": f"{within}; {kept}"}
    both = _both(read, record)
    if len(both) < LEAST <= len(both) + unread:
        said = (
            f"{unread} of {len(images)} images could not be read, too few are left to judge this machine; look at their store"
        )
        return {**none, "compared": len(both), "said": said}
    if len(both) < LEAST:
        raise UserError(
            f"the canary has {len(both)} images in common with its record; give the images of the record, or remove the record"
        )
    grown = np.log(np.array(both) + 1) @ [1, -1]
    ratio, chance = float(np.exp(grown.mean())), _chance(grown)
    worse = ratio >= RATIO and chance < CHANCE
    ours, theirs = (float(np.median(each)) for each in zip(*both, strict=True))
    said = (
        f"{len(both)} images, half of them within {ours:,.1f} km (record: {theirs:,.1f} km); "
        f"distances are {ratio:.2f} times the record's, chance alone makes so bad a night {chance:.2g} of the time"
        + (f"; {unread} more could not be read" if unread else "")
    )
    return {"worse": worse, "ratio": round(ratio, 4), "chance": round(chance, 6), "compared": len(both), **told, "said": said}


def common(images: Images, record: Images) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Images that are in both, ours and the record's: by their bytes, or by their names where not both were read;
    bytes that are there twice count once.
    """
    known = [each for each in record if each.get("reason") not in UNREAD]
    bytes_ = {each["sha256"]: each for each in known if each["sha256"]}
    names = {each["image_id"]: each for each in known}
    found: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for each in images:
        named = names.get(each["image_id"])
        if each["sha256"] in bytes_:
            found[each["sha256"]] = each, bytes_[each["sha256"]]
        elif named is not None and not (each["sha256"] and named["sha256"]):
            found[named["sha256"] or each["image_id"]] = each, named
    return [found[each] for each in sorted(found)]


def _both(images: Images, record: Images) -> list[tuple[float, float]]:
    """Distances of the images in common, ours and the record's."""
    return [(ours["distance_km"], theirs["distance_km"]) for ours, theirs in common(images, record)]


def extended(images: Images, record: Images) -> list[dict[str, Any]]:
    """A record of tonight's images: what the old one knows is as it says, the others are as they are tonight."""
    known = {ours["image_id"]: theirs["distance_km"] for ours, theirs in common(images, record)}
    return [{**each, "distance_km": known.get(each["image_id"], each["distance_km"])} for each in images]


def recorded(data: bytes, uri: str) -> list[dict[str, Any]]:
    """The images of a record.

    Raises:
        UserError: these bytes are none.
    """
    try:
        told: Mapping[str, Any] = json.loads(data)
        images = [
            {
                "image_id": each.get("image_id"),
                "sha256": each["sha256"],
                "reason": each.get("reason"),
                "distance_km": float(each["distance_km"]),
            }
            for each in told["images"]
        ]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{uri} is no record of a canary; remove it, or put a run's canary.json there") from None
    if told.get("version") != VERSION:
        raise UserError(f"{uri} is a record of version {told.get('version')}, this is version {VERSION}; remove it")
    return images


def _chance(grown: np.ndarray) -> float:
    """One-sided p of the mean under random signs."""
    if not grown.any():
        return 1.0
    from scipy.stats import permutation_test

    found = permutation_test(
        (grown,), np.mean, permutation_type="samples", alternative="greater", n_resamples=9_999, rng=0, vectorized=True
    )
    return float(found.pvalue)
