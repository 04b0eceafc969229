"""How sure a figure is: percentile bootstraps over images, drawn from the distribution of the resample itself.

Nothing is resampled image by image where the resample's figure can be drawn directly:

    a share            right or wrong: a binomial draw
    a paired difference of shares   a multinomial one
    a median           the order statistic of a resample is a Beta draw of the rank (David and Nagaraja, Order Statistics)
    a mean             a multinomial one over the 256 values farthest from the median, each by itself, and 256 groups of
                       neighbours in order of the rest, to whose means comes what varies within them, as a normal draw

The first three are the bootstrap exactly, and the fourth is where there are no more than 512 images. Beyond, its mean and its
variance are exact, and so are the few large errors that make a mean uneven. A million images and 1,000 resamples take 0.2 s
where resampling takes minutes.

A difference of shares is called sure where its interval leaves zero out and McNemar's exact test agrees (p below 0.05): of 4
images that one alone has right and none the other has, a percentile interval alone says too much.

Not covered: percentile bootstraps have no width at shares of 0 and 1, and say too little for fewer than some 30 images; images
are drawn as if independent, which many of one scene are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from geobatch.geo.distance import within

Floats = NDArray[np.float64]

#: Values and groups that a mean is drawn by, half of either, and resamples drawn at once: 4 MiB of counts.
_GROUPS, _BLOCK = 512, 1024
#: Chance below which a difference is no chance.
_CHANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int = 10_000
    """Resamples of the images; 10,000 settle an interval's ends to about a hundredth of its width."""
    confidence: float = 0.95
    """Share of the resamples between an interval's ends."""
    seed: int = 0
    """Seed of the resampling; the same seed gives the same interval."""

    def ends(self, draws: Floats) -> tuple[float, float]:
        """Lower and upper end of the central interval of resampled figures `(resamples,)`."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """A difference of two shares of the same images."""

    p: float
    """Probability of so unequal a difference if both were as good: McNemar's exact test, two-sided, 1 where none differs."""

    @property
    def sure(self) -> int:
        """1: surely more, -1: surely less, 0: neither."""
        return 0 if not self.p < _CHANCE else int(self.low > 0) - int(self.high < 0)


#: What nothing has.
UNKNOWN = Interval(value=float("nan"), low=float("nan"), high=float("nan"))


def share_interval(share: float, images: int, bootstrap: Bootstrap | None = None) -> Interval:
    """Percentile bootstrap of a share of `images` images: `images` draws with replacement hold Binomial(images, share)."""
    how = bootstrap or Bootstrap()
    if not images:
        return UNKNOWN
    draws = np.random.default_rng(how.seed).binomial(images, min(max(share, 0.0), 1.0), how.resamples) / images
    low, high = how.ends(draws)
    return Interval(value=share, low=low, high=high)


def paired_difference(ours_km: ArrayLike, theirs_km: ArrayLike, km: float, bootstrap: Bootstrap | None = None) -> Difference:
    """Our share within `km` less theirs, over the same images in the same order, with its paired interval.

    Images that both or neither got right widen no interval, which is why two runs may differ surely although
    their own intervals overlap.

    Raises:
        ValueError: lists of different lengths.
    """
    return share_difference(within(ours_km, km), within(theirs_km, km), bootstrap)


def share_difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], bootstrap: Bootstrap | None = None) -> Difference:
    """Our share of what is true less theirs, of the same images `(N,)` in the same order, with its paired interval.

    Raises:
        ValueError: lists of different lengths.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired difference needs the same images twice: {ours.shape} and {theirs.shape}")
    if not ours.size:
        return Difference(value=np.nan, low=np.nan, high=np.nan, p=1.0)
    how = bootstrap or Bootstrap()
    only_ours, only_theirs = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    kinds = np.array([only_ours, only_theirs, ours.size - only_ours - only_theirs]) / ours.size
    draws = np.random.default_rng(how.seed).multinomial(ours.size, kinds, how.resamples)
    low, high = how.ends((draws[:, 0] - draws[:, 1]) / ours.size)
    return Difference(value=float(kinds[0] - kinds[1]), low=low, high=high, p=unequal(only_ours, only_theirs))


def unequal(one: int, other: int) -> float:
    """Probability of counts so unequal if either were as likely, two-sided and exact; 1 where there are none."""
    return float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0


def gap_closed(
    chosen: NDArray[np.bool_], likeliest: NDArray[np.bool_], oracle: NDArray[np.bool_], bootstrap: Bootstrap | None = None
) -> Interval:
    """What one choice has right `(N,)` over another, of what a third, which is never worse than that other, has over it.

    A resample is a draw of how many images there are of each of the eight kinds. Without value where the gap itself may be
    none, by its own interval.
    """
    how = bootstrap or Bootstrap()
    if not chosen.size:
        return UNKNOWN
    kinds = np.arange(8)
    counts = np.bincount(4 * chosen + 2 * likeliest + oracle, minlength=8)
    gains = np.stack([(kinds >> 2 & 1) - (kinds >> 1 & 1), (kinds & 1) - (kinds >> 1 & 1)], axis=1)
    gained, gap = (np.random.default_rng(how.seed).multinomial(chosen.size, counts / chosen.size, how.resamples) @ gains).T
    if how.ends(gap)[0] <= 0:
        return UNKNOWN
    low, high = how.ends(gained[gap > 0] / gap[gap > 0])
    value = counts @ gains
    return Interval(value=float(value[0] / value[1]), low=low, high=high)


def mean_interval(values: ArrayLike, bootstrap: Bootstrap | None = None) -> Interval:
    """The mean of numbers `(N,)`, NaN left out, with its interval; for a difference of means give paired differences."""
    numbers = np.asarray(values, np.float64)
    numbers = np.sort(numbers[~np.isnan(numbers)])
    if not numbers.size:
        return UNKNOWN
    how = bootstrap or Bootstrap()
    counts, means, variances = _grouped(numbers)
    rng, share = np.random.default_rng(how.seed), counts / numbers.size
    blocks = []
    for at in range(0, how.resamples, _BLOCK):
        drawn = rng.multinomial(numbers.size, share, min(_BLOCK, how.resamples - at))
        blocks.append(drawn @ means + np.sqrt(drawn @ variances) * rng.standard_normal(len(drawn)))
    low, high = how.ends(np.clip(np.concatenate(blocks) / numbers.size, numbers[0], numbers[-1]))
    return Interval(value=float(numbers.mean()), low=low, high=high)


def _grouped(numbers: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Counts, means and variances of groups of rising numbers `(N,)`: the outermost by themselves, neighbours together."""
    if numbers.size <= _GROUPS:
        return np.ones(numbers.size, np.intp), numbers, np.zeros(numbers.size)
    # The values farthest from the middle are the first few and the last few.
    outer = np.sort(np.argsort(np.abs(numbers - numbers[numbers.size // 2]), kind="stable")[-_GROUPS // 2 :])
    inner = np.delete(numbers, outer)
    starts = np.unique(np.linspace(0, inner.size, _GROUPS // 2, endpoint=False).astype(np.intp))
    counts = np.diff(np.append(starts, inner.size))
    means = np.add.reduceat(inner, starts) / counts
    variances = np.add.reduceat((inner - np.repeat(means, counts)) ** 2, starts) / counts
    alone = np.ones(outer.size, np.intp)
    return np.append(alone, counts), np.append(numbers[outer], means), np.append(np.zeros(outer.size), variances)


def median_interval(values: ArrayLike, bootstrap: Bootstrap | None = None) -> Interval:
    """The median of numbers `(N,)`, NaN left out, with its interval."""
    numbers = np.asarray(values, np.float64)
    numbers = np.sort(numbers[~np.isnan(numbers)])
    count = numbers.size
    if not count:
        return UNKNOWN
    how = bootstrap or Bootstrap()
    rng = np.random.default_rng(how.seed)
    lower = (count + 1) // 2  # rank, from 1, of the median, or of the lower of the two in the middle
    rank = rng.beta(lower, count - lower + 1, how.resamples)
    draws = numbers[_row(rank, count)]
    if count % 2 == 0:
        upper = rank + (1 - rank) * rng.beta(1, count - lower, how.resamples)
        draws = (draws + numbers[_row(upper, count)]) / 2
    low, high = how.ends(draws)
    return Interval(value=float(np.median(numbers)), low=low, high=high)


def _row(rank: Floats, count: int) -> NDArray[np.intp]:
    return np.minimum((rank * count).astype(np.intp), count - 1)
