"""Writes the many small parts of a standing table together, and deletes parts that no table has named for a day.

python jobs/compact.py --output s3://bucket/located
"""

import sys

import tyro

from geobatch.pipeline.compact import Compact, compact_table
from geobatch.pipeline.entry import guarded


def main(config: Compact) -> None:
    compact_table(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Compact, description=__doc__)))
