"""Trains GeoToken on labelled images and a gallery, with Ray Train. Type it again to take up a training that died.

    python jobs/geotoken_train.py --archive .demo/training --truth .demo/training.csv --encoder .demo/encoder \\
        --gallery .demo/gallery --output .demo/model --preset small

With `--reward also` the reward model is trained after it, with `--reward only` for the network that the output holds already.
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.train import GeoTokenTrain, train


def main(config: GeoTokenTrain) -> None:
    train(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeoTokenTrain, description=__doc__)))
