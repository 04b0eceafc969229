"""A gallery's search on the GPU that this process sees, where FAISS is built for one (`faiss-gpu`).

Flat galleries and those over cells (ivf) are copied there at the first search, flat ones in the precision they are stored in.
What the GPU nominates is ranked by exact inner product with the stored vectors, as on the CPU, so answers agree to rounding.
pq here reads 4-bit codes in blocks and hnsw is a graph: neither has a form on the GPU, so a gallery of these kinds is searched
flat there if its vectors fit. What does not fit into the GPU's memory is searched on the CPU, and said.

Untested: no machine of ours has had FAISS and a GPU together. `tests/engine/gallery/test_gpu.py` compares both where one has.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np

from geobatch.engine.gallery.finder import Finder, Local
from geobatch.engine.gallery.stored import Rows, Vectors
from geobatch.progress import say

_MOST = 2048  # neighbours, and cells, that a GPU index looks at
_NOMINATED = 2  # rows for each neighbour asked for: half-precision sums swap close ones


def gpus() -> int:
    """GPUs that FAISS sees from here; 0 where it is built without."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def on_gpu(local: Local) -> Finder:
    """The finder itself, or one that searches on the GPU."""
    return OnGpu(local) if gpus() else local


class OnGpu:
    """A finder whose search runs on a GPU.

    Args:
        local: the same on the CPU; vectors are looked up there, and what the GPU cannot do is done there.
    """

    indexed = True

    def __init__(self, local: Local) -> None:
        self.local = local

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.search`."""
        wide = min(_NOMINATED * k, len(self.local.stored))
        if wide > _MOST or self._index is None:
            return self.local.search(queries, k)
        rows = np.asarray(self._index.search(queries, wide)[1], np.int64)
        similarities, found = self.local.stored.rank(queries, rows, k)
        short = np.flatnonzero((found < 0).any(axis=1))
        if len(short):
            similarities[short], found[short] = self.local.stored.search(np.ascontiguousarray(queries[short]), k)
        return similarities, found

    def among(self, queries: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.among`, on the CPU."""
        return self.local.among(queries, rows, k)

    def rank(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """As `Finder.rank`, on the CPU."""
        return self.local.rank(queries, candidates, k)

    def take(self, rows: Rows) -> Vectors:
        """As `Finder.take`."""
        return self.local.take(rows)

    @cached_property
    def _index(self) -> Any:
        """The index in the GPU's memory, None where it does not fit."""
        resources: Any = faiss.StandardGpuResources()
        try:
            if self.local.kind == "ivf" and self.local.index is not None:
                index: Any = faiss.index_cpu_to_gpu(resources, 0, self.local.index.faiss)
                index.nprobe = min(self.local.index.probes, _MOST)
            else:
                config: Any = faiss.GpuIndexFlatConfig()
                config.useFloat16 = self.local.stored.arrays[0].dtype == np.float16
                index = faiss.GpuIndexFlatIP(resources, self.local.stored.width, config)
                for _, block in self.local.stored.blocks():
                    index.add(block)
        except RuntimeError as error:
            say(f"the gallery does not go to the GPU ({str(error).splitlines()[0][:160]}); it is searched on the CPU")
            return None
        index._resources = resources  # FAISS does not keep them alive
        return index
