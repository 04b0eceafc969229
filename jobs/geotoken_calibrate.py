"""Fits how sure a model of GeoToken may be, to its places for labelled images that it was not trained on.

python jobs/geotoken_calibrate.py --places s3://bucket/located --truth truth.csv --model model
"""

import sys

import tyro

from geobatch.pipeline.calibrate import Calibrate, calibrate
from geobatch.pipeline.entry import guarded


def main(config: Calibrate) -> None:
    calibrate(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Calibrate, description=__doc__)))
