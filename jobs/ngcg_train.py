"""Trains an NGCG encoder on tiles and the texts that describe them, with Ray Train. Type it again to take up one that died.

    python jobs/ngcg_train.py --archive s3://bucket/tiles --annotations train.json --preset internvl35_1b --output model \\
        --tuning.batch 80 --loop.workers 8 --loop.gpu

A small one from random weights, on CPUs, which takes larger steps and batches than adapters on a trained network:

    python jobs/ngcg_train.py --archive tiles --annotations texts.csv --output model --base tiny --tuning.whole \\
        --tuning.no-bf16 --tuning.batch 128 --tuning.learning-rate 1e-3 --tuning.warm-up 0.1

What a training needs on each GPU, without any weights:

    python jobs/ngcg_train.py --dry-run --preset internvl35_1b --tuning.batch 64 --loop.workers 8
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.ngcg_train import NgcgTrain, ngcg_train


def main(config: NgcgTrain) -> None:
    ngcg_train(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(NgcgTrain, description=__doc__)))
