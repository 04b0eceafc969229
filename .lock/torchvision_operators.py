"""Lets torchvision import beside a CPU build of torch where the index has no CPU wheel of it.

Its CUDA wheel declares two operators in a library that a CPU torch cannot load, and then fails to register their meta kernels
("operator torchvision::nms does not exist"). transformers and vLLM only need torchvision's transforms, so declaring the two
before its first import is enough. Installed into a virtual environment by `python .lock/mend.py`, never part of geobatch.
"""

import sys

_KEPT = []  # a torch library that is collected takes its operators with it


class _Declare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torchvision" and not _KEPT:
            import torch

            library = torch.library.Library("torchvision", "DEF")
            _KEPT.append(library)
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Declare)
