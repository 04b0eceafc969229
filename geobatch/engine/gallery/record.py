"""The files of a gallery's folder, and the columns of the tables that it is made from."""

from __future__ import annotations

RECORD, INDEX, PLACES = "gallery.json", "index.faiss", "gallery.parquet"
COLUMNS = ["image_id", "latitude", "longitude", "vector"]
