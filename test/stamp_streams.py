# SPDX-License-Identifier: Apache-2.0
"""Streams of stamps, and brute force for the pairs in them: for the tests of pairing."""

import weakref

import numpy as np

from diffmf_ros.core.frames import RGB, THERMAL, Frame

MS = 1_000_000
PIXELS = np.zeros((1, 1), np.uint8)
RATES = [(30, 30), (30, 9), (30, 25), (60, 30)]


def frame(stream, stamp_ns):
    return Frame(stream, int(stamp_ns), 'optical', PIXELS, 'mono8')


def run(pairing, arrivals, flush=True):
    """Stamps of the pairs that come out of (stream, stamp) arrivals."""
    pairs = [pair for stream, stamp in arrivals for pair in pairing.add(frame(stream, stamp))]
    pairs += pairing.flush() if flush else []
    return [(pair.rgb.stamp_ns, pair.thermal.stamp_ns) for pair in pairs]


def still_held(pairing, arrivals):
    """How many frames of (stream, stamp) arrivals are still in memory when all have been added."""
    references = []
    for stream, stamp in arrivals:
        item = frame(stream, stamp)
        references.append(weakref.ref(item))
        pairing.add(item)
        del item
    return sum(reference() is not None for reference in references)


def stamps(rng, rate, *, seconds=12, jitter=0.0, drops=0.0):
    """Sorted stamps from a random phase on; jitter is a share of the period to either side."""
    count = int(seconds * rate)
    periods = np.arange(count) + rng.uniform() + rng.uniform(-jitter, jitter, count)
    return (periods[rng.uniform(size=count) >= drops] * 1e9 / rate).astype(np.int64)


def by_arrival(rgb_ns, thermal_ns, *, rgb_delay_ms=5.0, thermal_delay_ms=15.0):
    """(stream, stamp) in the order of stamp plus delay; a delay is a number or one per frame."""
    arrivals = []
    for stream, stamps_ns, delay_ms in ((RGB, rgb_ns, rgb_delay_ms),
                                        (THERMAL, thermal_ns, thermal_delay_ms)):
        at_ns = stamps_ns + np.multiply(delay_ms, MS)
        arrivals += [(at, stream, int(stamp)) for at, stamp in zip(at_ns, stamps_ns, strict=True)]
    return [(stream, stamp) for _, stream, stamp in sorted(arrivals)]


def costs(rgb, thermal):
    """Sorted stamps of both streams as columns and rows, their offsets, and these as distances
    without ties."""
    rgb, thermal = np.sort(rgb).astype(np.int64), np.sort(thermal).astype(np.int64)
    offset = thermal[None] - rgb[:, None]  # rgb x thermal
    return rgb, thermal, offset, 2 * np.abs(offset) + (offset < 0)


def brute_force(rgb_ns, thermal_ns, max_ns):
    """All in reach, closest first (of equals RGB first).

    Each whose frames are free and that crosses none before it.
    """
    rgb, thermal, offset, cost = costs(rgb_ns, thermal_ns)
    pairs = []
    for i, j in sorted(np.argwhere(np.abs(offset) <= max_ns).tolist(),
                       key=lambda ij: cost[tuple(ij)]):
        if all((i - other_i) * (j - other_j) > 0 for other_i, other_j in pairs):
            pairs.append((i, j))
    return [(int(rgb[i]), int(thermal[j])) for i, j in sorted(pairs)]


def each_others_closest(rgb_ns, thermal_ns, max_ns):
    """All combinations in reach of which each frame is the closest one to the other."""
    rgb, thermal, offset, cost = costs(rgb_ns, thermal_ns)
    mutual = (cost == cost.min(0)) & (cost == cost.min(1)[:, None]) & (np.abs(offset) <= max_ns)
    return [(int(rgb[i]), int(thermal[j])) for i, j in np.argwhere(mutual)]
