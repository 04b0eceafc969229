"""What flows: the Arrow schemas between rooms, and the names of the columns.

    PLAN ──read──▶ IMAGE ──decode──▶ PICTURE ──a method's stages──▶ PLACE

Every table on the way carries the three columns of `FATE`: all null while the image is alive; `stage` and `reason` set once
it was rejected. A stage never sees a rejected row (`geobatch.stage`), a rejected row never loses its way to the table. Nor
does a stage see an image whose place is known already (`REUSED`).
"""

from __future__ import annotations

import pyarrow as pa

#: Raised by hand whenever a column of PLACE changes its name, type or meaning.
SCHEMA_VERSION = 4

#: The radii, in km, at which the field publishes its figures and at which a place states its probability.
RADII_KM = (1, 25, 200, 750, 2500)


def probability_column(km: int) -> str:
    """Name of the column with the probability that the truth lies within `km` of the place."""
    return f"probability_{km}km"


FATE = [
    pa.field("stage", pa.string()),  # where the image was rejected; null while it is alive
    pa.field("reason", pa.string()),  # a key of geobatch.errors.REASONS
    pa.field("detail", pa.string()),  # for a person
]

#: Who an image is. `image_id` is stable and unique in a table; `uri` and `etag` are the object that holds the bytes
#: (the image itself, or the tar, zip or Parquet file it is a member of).
IDENTITY = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("etag", pa.string()),
    pa.field("size", pa.int64()),  # encoded bytes of the image
]

#: In an etag's place: the object may be there, and the store does not show it.
HIDDEN = "?"
#: In an offset's place, see PLAN.
UNOPENED = -1

#: One row of the frozen manifest. All rows of a shard are contiguous; shards are numbered from 0 in the order planned.
#: kind "object": one row an image. kind "tar": one row a file, its members appear as it is read; or one row a byte part
#: that it takes to read the first one's members (offset = where a part's own members begin, its size if none does). kind
#: "zip": one row a member (offset = of its entry in the central directory, bytes). kind "parquet": one row a row group
#: (offset = its index). kind "text": one row a file, whose rows appear as it is read. offset = UNOPENED: the store did not
#: give the container when it was planned; null in a zip or Parquet file: it was damaged.
PLAN = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),  # null where members appear as the shard is read
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size", pa.int64()),  # bytes of the object, or of the member where that is known
        pa.field("offset", pa.int64()),
    ]
)

IMAGE = pa.schema([*IDENTITY, pa.field("bytes", pa.large_binary()), *FATE])

#: After decoding. `picture` holds picture_height × picture_width × 3 bytes of upright RGB, rows from the top.
PICTURE = pa.schema(
    [
        *IDENTITY,
        pa.field("sha256", pa.string()),  # of the encoded bytes, hex
        pa.field("width", pa.int32()),  # of the upright original, pixels
        pa.field("height", pa.int32()),
        pa.field("exif_latitude", pa.float64()),  # null: absent, invalid, or exactly 0,0 ("no fix")
        pa.field("exif_longitude", pa.float64()),
        pa.field("exif_time", pa.string()),  # ISO 8601, with an offset only where the file states one
        pa.field("picture", pa.large_binary()),
        pa.field("picture_width", pa.int32()),
        pa.field("picture_height", pa.int32()),
        *FATE,
    ]
)

CANDIDATES = pa.list_(
    pa.struct(
        [
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("score", pa.float32()),  # larger is better; its meaning is the method's
            pa.field("count", pa.int32()),  # how many of the K draws it stands for
            pa.field("similarity", pa.float32()),  # of the image to the gallery image nearest to this place
            pa.field("origin", pa.string()),  # "sample", …
        ]
    )
)

NEIGHBOURS = pa.list_(
    pa.struct(
        [
            pa.field("image_id", pa.string()),  # null for a place between images of the gallery
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("similarity", pa.float32()),  # inner product of unit vectors
        ]
    )
)

#: What a method's stages must have added by the end of the river; the sink adds the rest of PLACE.
LOCATED = [
    pa.field("latitude", pa.float64()),
    pa.field("longitude", pa.float64()),
    pa.field("score", pa.float32()),
    *[pa.field(probability_column(km), pa.float32()) for km in RADII_KM],
    pa.field("candidates", CANDIDATES),
    pa.field("neighbours", NEIGHBOURS),
]

#: What a method may say beside its place; the sink writes null where it does not.
CONFIDENCE = [
    pa.field("radius_90_km", pa.float32()),  # the truth lies this near the place with probability 0.9
    pa.field("area", pa.string()),  # S2 token of the finest cell that holds the truth with probability >= 0.9
    pa.field("area_probability", pa.float32()),  # of that cell
    pa.field("chosen_by", pa.string()),  # the selector that chose the place
    pa.field("fallback", pa.string()),  # why it was not the selector that was asked for; null: it was
]

#: What a method that searches tiles by text may say; the sink writes null where it does not.
SAID = [
    pa.field("text", pa.string()),  # the text that was searched for
    pa.field("footprint_km", pa.float32()),  # side of the ground that the chosen tile shows
]

#: One row of the table. The README documents each column.
PLACE = pa.schema(
    [
        *IDENTITY,
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),  # "placed" or "rejected"
        *FATE,
        *LOCATED[:2],
        pa.field("geometry", pa.binary()),  # WKB point, OGC:CRS84
        pa.field("s2_token", pa.string()),  # of the level-20 cell
        *LOCATED[2 : 3 + len(RADII_KM)],
        *CONFIDENCE,
        *SAID,
        *LOCATED[3 + len(RADII_KM) :],
        pa.field("exif_latitude", pa.float64()),
        pa.field("exif_longitude", pa.float64()),
        pa.field("exif_time", pa.string()),
        pa.field("reused_from", pa.string()),  # image_id with the same bytes, whose prediction this is; null: computed
        pa.field("method", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),  # fingerprint of what decided the row
        pa.field("run", pa.string(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
    ]
)

_OWN = {field.name for field in (*IDENTITY, *FATE)} | {"status", "method", "model", "run", "schema_version"}

#: On the way, a row of the table whose bytes are the image's: all but what is the image's or the run's own. An image that has
#: one passes every stage by.
REUSED = pa.field("reused", pa.struct([field for field in PLACE if field.name not in _OWN]))

#: One row of a gallery: a vector that knows its place. `vector` has unit length. A place of NaN is none (a gallery that is only
#: retrieved from); null is a rejected row's.
GALLERY = pa.schema(
    [
        *IDENTITY,
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("footprint_km", pa.float32()),  # side of the ground that a tile shows; null: not known
        pa.field("vector", pa.list_(pa.float32())),
        pa.field("status", pa.string(), nullable=False),
        *FATE,
    ]
)

#: One row of decoded training pictures.
LABELLED = pa.schema(
    [
        *IDENTITY,
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        *[PICTURE.field(name) for name in ("picture", "picture_width", "picture_height")],
        pa.field("status", pa.string(), nullable=False),
        *FATE,
    ]
)

#: One row of a teacher's captions.
CAPTIONS = pa.schema(
    [
        *IDENTITY,
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("latitude", pa.float64()),  # the truth
        pa.field("longitude", pa.float64()),
        pa.field("image", pa.large_binary()),  # the picture the teacher saw, as JPEG or PNG
        pa.field("dhash", pa.uint64()),
        pa.field("caption", pa.string()),  # geo-caption JSON; null: an answer without reasoning
        pa.field("answer_latitude", pa.float64()),  # the caption's
        pa.field("answer_longitude", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        *FATE,
    ]
)

#: One row of a picture with the texts that describe it, to be trained on.
PAIRS = pa.schema(
    [
        *IDENTITY,
        pa.field("latitude", pa.float64()),  # NaN where nobody says where the picture was taken
        pa.field("longitude", pa.float64()),
        pa.field("image", pa.large_binary()),  # the picture as the network sees it, as JPEG or PNG
        pa.field("texts", pa.list_(pa.string())),
        pa.field("group", pa.string()),  # pictures of one group show the same place
        pa.field("status", pa.string(), nullable=False),
        *FATE,
    ]
)

#: Kinds of tables that are not of places, by the name their runs give as method.
LAYOUTS = {"gallery": GALLERY, "pictures": LABELLED, "captions": CAPTIONS, "pairs": PAIRS}


def empty_columns(fields: list[pa.Field], rows: int) -> dict[str, pa.Array]:
    """All-null columns of the fields' types, `rows` long."""
    return {field.name: pa.nulls(rows, field.type) for field in fields}
