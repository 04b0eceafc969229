"""What an archive is, and how much of it makes a unit of work."""

from __future__ import annotations

from dataclasses import dataclass

from geobatch.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig:
    """Where images lie. Every field but `uri` decides how a shard falls into slices: a run must keep them to its end."""

    uri: str
    """An S3 prefix or a local folder, one tar (or the first of its byte parts), zip or Parquet file, a CSV or Parquet manifest
    with a `uri` column, or a file of texts."""
    include: tuple[str, ...] = ()
    """Globs of names that are images whatever their extension; with any given, nothing else is."""
    exclude: tuple[str, ...] = ()
    """Globs of names to pass over."""
    texts: str = ""
    """Column of texts, where the archive is one of texts (CSV, TSV, JSONL, JSON, Parquet files) and not of images; "auto"
    looks for one called text, caption, description, query or sentence."""
    shard_rows: int = 256
    """Images of one unit of work, at most."""
    shard_bytes: int = 64 << 20
    """Encoded bytes of one unit of work, at most, unless a single image is larger."""
    max_bytes: int = 256 << 20
    """Encoded bytes above which an image is rejected unread."""

    def __post_init__(self) -> None:
        """Refuses sizes that make no unit of work."""
        if not 1 <= self.shard_rows <= 50_000:
            raise UserError(f"--shard-rows {self.shard_rows} is not between 1 and 50000; 256 suits most archives")
        if self.shard_bytes < 1 or self.max_bytes < 1:
            raise UserError("a unit of work and its largest image have 1 byte at least; leave --max-bytes at its default")
