"""Locates every image, or text, of a bucket: one row each, in one Parquet table. Type it again to take up a run that died.

python jobs/geolocate_bucket.py --archive s3://bucket/prefix --output s3://bucket/located --model .demo/model
python jobs/geolocate_bucket.py --archive s3://bucket/prefix --output s3://bucket/located --model .demo/model --deadline 06:30
python jobs/geolocate_bucket.py --archive s3://bucket/texts.csv --output s3://bucket/located --model ngcg --gallery tiles
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.geolocate import GeolocateBucket, geolocate


def main(config: GeolocateBucket) -> int:
    status: int = geolocate(config)["status"]
    return status


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(GeolocateBucket, description=__doc__)))
