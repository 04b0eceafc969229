"""Judges texts against tiles: R@k both ways, L@50/100/150 m, in the whole gallery and among the 100 tiles nearest to the truth.

python jobs/build_gallery.py --archive test.json --texts auto --places none --encoder model --output queries
python jobs/build_gallery.py --archive tiles --places none --encoder model --output tiles
python jobs/evaluate_retrieval.py --queries queries --gallery tiles --benchmark geotext --output figures
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.retrieval import EvaluateRetrieval, evaluate_retrieval


def main(config: EvaluateRetrieval) -> None:
    evaluate_retrieval(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(EvaluateRetrieval, description=__doc__)))
