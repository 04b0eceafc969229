"""Vectors that know their place, and the three questions asked of them: what looks like this, what lies
near here, where is row i.

A gallery on disk is a folder: `gallery.json` (its record), `index.faiss`, `gallery.parquet` (image_id,
latitude, longitude; row i belongs to vector i). Rows are sorted by image_id, so the same images give the
same files and the same fingerprint in whatever order their parts were written. The index is opened
memory-mapped: actors of one machine share its pages, and opening 100,000 × 512 takes 2 ms.

Search is exact: one matrix product a batch. 2,000 queries of 128 floats against 30,000 rows take 0.3 s on
two cores; 4 million rows of 2304 floats (the paper's gallery, 38 GB) need another index, whose kind
`gallery.json` will name. `near` asks FAISS too, for the nearest of unit vectors in space, then ranks a few
more than asked for in float64, because float32 cannot tell apart places within 2 km of each other.
"""

from geobatch.engine.gallery.build import append, build
from geobatch.engine.gallery.collect import collect
from geobatch.engine.gallery.gallery import Floats, Gallery, load
from geobatch.engine.gallery.index import Indexing
from geobatch.engine.gallery.record import COLUMNS, GROUP, INDEX, PLACES, RECORD, read_record
from geobatch.engine.gallery.stored import Rows, Vectors

__all__ = [
    "COLUMNS",
    "GROUP",
    "INDEX",
    "PLACES",
    "RECORD",
    "Floats",
    "Gallery",
    "Indexing",
    "Rows",
    "Vectors",
    "append",
    "build",
    "collect",
    "load",
    "read_record",
]
