"""Trains an image encoder on labelled images (GeoToken's phase 1), with Ray Train.

python jobs/geotoken_align.py --archive .demo/training --truth .demo/training.csv --output .demo/encoder --preset small
"""

import sys

import tyro

from geobatch.pipeline.align import GeoTokenAlign, align_encoder
from geobatch.pipeline.entry import guarded


def main(config: GeoTokenAlign) -> None:
    align_encoder(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeoTokenAlign, description=__doc__)))
