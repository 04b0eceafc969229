"""Bytes in: where images lie, what of it is to be read, and the reading.

config    what an archive is: a URI, names to take, sizes of a unit of work
names     which names are images, which are containers; how an image is called for ever
listing   what a URI names: a prefix, a manifest, one file
plan      a listing becomes the frozen manifest: shards, numbered
manifest  a CSV or Parquet file of URIs, read like a listing
shard     one shard becomes slices of IMAGE rows, by kind:
prefix    loose objects, many GETs in flight
tar       a tar or WebDataset shard, read once, in order, never on disk
headers   the members of a tar, one by one, with damage raised
parts     byte parts of one tar: their names and their order
cut       where the members of each part begin, so that each part has a reader
joined    objects one behind the other as one file
zip       members of a zip, through range reads
parquet   rows of a Parquet file that has an image column
texts     rows of files of texts, each a text in an image's place
forms     those files row by row: CSV, TSV, JSON lines, JSON, Parquet
fields    which of a row's fields is its text, its name, its place
scan      text files read forwards, a line or a JSON value at a time
slice     the unit of work and of commit
source    the stage that reads shards on a cluster
"""
