"""Judges a table of places against truth: shares within 1/25/200/750/2500 km for every selector, calibration, a picture.

python jobs/evaluate.py --places s3://bucket/located --truth truth.csv --output evaluation --report page.html
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.evaluate import Evaluate, evaluate_places


def main(config: Evaluate) -> None:
    evaluate_places(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Evaluate, description=__doc__)))
