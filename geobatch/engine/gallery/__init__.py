"""Vectors that know their place, and the three questions asked of them: what looks like this (within an area, if asked),
what lies near here, where is row i.

A gallery on disk is a folder whose record names its files (`record`). Rows are sorted by image_id, so the same images give the
same rows in whatever order their parts were written; what is appended later follows behind. Everything is mapped into memory:
the actors of one machine share its pages, and opening a million rows takes half a second.

Small galleries are searched exactly. A larger one is given an index only where one was measured to pay (`measure`); an index
only nominates rows, which are then ranked exactly against the stored vectors. On a million location features of GeoCLIP (512
numbers) it finds 0.997 of the 15 nearest at 28 times the speed of flat search. What outgrows a machine is held in parts by
several processes (`sharded`).
"""

from geobatch.engine.gallery.build import append, build
from geobatch.engine.gallery.collect import collect
from geobatch.engine.gallery.gallery import Gallery, load
from geobatch.engine.gallery.ground import Floats
from geobatch.engine.gallery.index import Indexing
from geobatch.engine.gallery.record import COLUMNS, FOOTPRINT, GROUP, INDEX, PLACES, RECORD, read_record
from geobatch.engine.gallery.stored import Rows, Vectors

__all__ = [
    "COLUMNS",
    "FOOTPRINT",
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
