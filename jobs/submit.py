"""Submits any job to a Ray cluster, follows it, tries again where machines failed, and ends with the job's own exit status.

python jobs/submit.py --address http://127.0.0.1:8265 --name nightly -- python jobs/geolocate_bucket.py --archive s3://bucket/…
"""

import sys

import tyro

from geobatch.pipeline.entry import guarded
from geobatch.pipeline.submit import Submit, split_command, submit


def main(config: Submit) -> int:
    return submit(config, split_command(sys.argv[1:])[1])


if __name__ == "__main__":
    sys.exit(guarded(main, lambda: tyro.cli(Submit, args=split_command(sys.argv[1:])[0], description=__doc__)))
