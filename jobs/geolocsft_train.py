"""Fine-tunes a vision-language model on curated captions, with Ray Train. Type it again to take up a training that died.

    python jobs/geolocsft_train.py --captions captions --base gemma-3-12b-it --output model --loop.workers 8 --loop.gpu

What a training needs on each GPU, without any weights:

    python jobs/geolocsft_train.py --dry-run --preset gemma3_27b --loop.workers 8
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.finetune import GeoLocSftTrain, finetune


def main(config: GeoLocSftTrain) -> None:
    finetune(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeoLocSftTrain, description=__doc__)))
