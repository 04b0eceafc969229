"""geobatch: where on Earth was each photograph in a bucket taken.

A river and its houses: images flow from an archive to a table (`pipeline`); each published method is one house beside the
river (`methods`); shared tools lie below (`archive`, `image`, `engine`, `train`, `sink`, `geo`, `store`).
"""

import logging

# Where torchao is installed, transformers imports it in every process, and it tells each user of GPU kernels he has no GPU for.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
