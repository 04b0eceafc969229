"""Places and rejections become one (Geo)Parquet table that is there completely or not at all.

What lies in an output folder, and in which order it is written:

    runs/RUN/run.json             put-if-absent: what decides a row (fingerprint), the archive, the code's version
    runs/RUN/plan/*.parquet       the manifest, one row group a shard
    runs/RUN/reuse/*.parquet      which row of the table has which bytes
    deleted/RUN-*.parquet         objects of the table that the archive no longer holds
    runs/RUN/plan.json            put-if-absent: which of those files are the plan; from here on it is frozen
    places/*.parquet              parts: one slice, one PUT, named by their content; or many of them, compacted
    runs/RUN/commits/S.N.json     put-if-absent: which part holds slice N of shard S, counts, reasons, seconds
    table/N.json                  put-if-absent, N rising: the parts that are the table now; the only thing a reader believes
    runs/RUN/done.json            last: read == placed + rejected, every slice committed once
    lease/N.json                  who works here (`lease`)

A run that dies leaves parts without a commit: its resumption writes the same bytes under the same name, or removes them.
Two drivers of one run at once waste work but cannot double a row, since only one commit of a slice can exist.
S3 has no other atomic swap than put-if-absent; a store without it is refused.
"""

from geobatch.sink.opening import begin, open_run
from geobatch.sink.record import Run
from geobatch.sink.rows import Stamp
from geobatch.sink.table import Snapshot, latest, read
from geobatch.sink.write import Write

__all__ = ["Run", "Snapshot", "Stamp", "Write", "begin", "latest", "open_run", "read"]
