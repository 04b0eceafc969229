"""The whole product on real imagery, on this machine: cuts a world, trains, locates a bucket, evaluates, draws.

python jobs/demo.py
"""

import sys

import tyro

from geobatch.pipeline.demo import Demo, demo
from geobatch.pipeline.entry import guarded


def main(config: Demo) -> None:
    demo(config)


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Demo, description=__doc__)))
