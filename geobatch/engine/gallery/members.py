"""The parts of a gallery as actors that any stage may ask (`geobatch.service`): who describes them alike gets the same ones."""

from __future__ import annotations

from pathlib import Path

from geobatch.actors import cores
from geobatch.engine.gallery.record import read_record
from geobatch.engine.gallery.sharded import Part, check_cut, parts
from geobatch.service import Service

#: CPUs that a part asks for: more than a head that is not for work has, and little beside the stages that wait for it.
CPUS = 0.5


def members(gallery: str, shards: int, fingerprint: str | None = None) -> Service:
    """The gallery's parts as actors, by a name that says which rows they answer with.

    Raises:
        UserError: no gallery, one that is never cut, or one that has another fingerprint than was given.
    """
    record = read_record(Path(gallery), fingerprint)
    check_cut(record, shards)
    threads = max(1, cores() // shards)
    name = f"gallery-{record['fingerprint'][:16]}-{shards}"
    return Service(name, Part, parts(gallery, shards, threads, record["fingerprint"]), cpus=CPUS)
