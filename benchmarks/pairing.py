# SPDX-License-Identifier: Apache-2.0
"""Who finds the closest partners: our pairing, and message_filters' approximate policy where that
is installed.

Two cameras of given rates for a minute, each stamp off by up to 2 % of the period; the images of
one take 5 ms to arrive, those of the other 20 ms. Columns: pairs that came out; how many of all
combinations that are each other's closest are among them; how long after the arrival of its later
frame a pair came out; CPU time of one add (median of the rounds, in turn).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from diffmf_ros.core.frames import RGB, THERMAL, DiffmfError, Frame
from diffmf_ros.core.settings import SyncSettings
from diffmf_ros.core.sync.pairing import ClosestPairing

SECONDS, ROUNDS, JITTER, MAX_DISTANCE_NS = 60, 7, 0.02, 25_000_000
DELAYS_NS = {'thermal late': {RGB: 5_000_000, THERMAL: 20_000_000},
             'RGB late': {RGB: 20_000_000, THERMAL: 5_000_000}}
# name: rate of RGB and of thermal in Hz, phase of thermal in RGB periods (None: random)
CASES = {'30 / 9 Hz': (30, 9, None), '30 / 25 Hz': (30, 25, None), '60 / 30 Hz': (60, 30, None),
         '30 / 30 Hz': (30, 30, 0.2), '30 / 30 Hz, half a period apart': (30, 30, 0.5)}
PIXELS = np.zeros((1, 1), np.uint8)


def stamps_of(rates: tuple[int, int], phase: float | None) -> dict[str, np.ndarray]:
    """Stamps in ns of both streams."""
    rng = np.random.default_rng(0)
    phases_s = [0.0, (rng.uniform() if phase is None else phase) / rates[0]]
    return {stream: ((np.arange(SECONDS * rate) + rng.uniform(-JITTER, JITTER, SECONDS * rate))
                     / rate * 1e9 + (shift_s + 1) * 1e9).astype(np.int64)
            for stream, rate, shift_s in zip((RGB, THERMAL), rates, phases_s, strict=True)}


def arrivals_of(stamps: dict[str, np.ndarray], delay_ns: dict[str, int]) -> list[Frame]:
    """Frames with their time of arrival, in that order."""
    frames = [Frame(stream, int(stamp), stream, PIXELS, 'mono8',
                    arrival_ns=int(stamp) + delay_ns[stream])
              for stream in stamps for stamp in stamps[stream]]
    return sorted(frames, key=lambda frame: frame.arrival_ns)


def closest(stamps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Index of the closest of the sorted others to each stamp."""
    after = np.searchsorted(others, stamps).clip(1, len(others) - 1)
    return np.where(stamps - others[after - 1] < others[after] - stamps, after - 1, after)


def best_of(stamps: dict[str, np.ndarray]) -> set[tuple[int, int]]:
    """Return all (rgb, thermal) stamps in max_cost that are each other's closest."""
    rgb, thermal = stamps[RGB], stamps[THERMAL]
    partner = closest(rgb, thermal)
    mutual = (closest(thermal, rgb)[partner] == np.arange(len(rgb))) & (
        abs(thermal[partner] - rgb) <= MAX_DISTANCE_NS)
    return set(zip(rgb[mutual].tolist(), thermal[partner[mutual]].tolist(), strict=True))


def run(pairing, frames: list[Frame]) -> tuple[list[tuple[int, int]], list[float], float]:
    """Pairs of stamps, how long each waited in ms (but the last few), and microseconds of CPU time
    per add."""
    pairs, waits_ms = [], []
    start_s = time.process_time()
    for frame in frames:
        for pair in pairing.add(frame):
            pairs.append((pair.rgb.stamp_ns, pair.thermal.stamp_ns))
            waits_ms.append((frame.arrival_ns - max(pair.rgb.arrival_ns, pair.thermal.arrival_ns))
                            / 1e6)
    cost_us = (time.process_time() - start_s) / len(frames) * 1e6
    pairs += [(pair.rgb.stamp_ns, pair.thermal.stamp_ns) for pair in pairing.flush()]
    return pairs, waits_ms, cost_us


def pairings() -> dict[str, Callable]:
    """Name and maker of what is compared."""
    makers: dict[str, Callable] = {'closest': lambda: ClosestPairing(SyncSettings())}
    try:
        from diffmf_ros.ros.filter_pairing import FilterPairing

        FilterPairing(SyncSettings(policy='approximate'))
    except (ImportError, DiffmfError) as error:
        print(f'without message_filters: {error}\n')
    else:
        makers['message_filters'] = lambda: FilterPairing(SyncSettings(policy='approximate'))
    return makers


def main() -> None:
    """Print the table."""
    makers = pairings()
    print(
        f'{"":48}{"":17}{"pairs":>7}{"of closest":>12}{"wait p50":>10}{"p99 ms":>8}{"us/add":>8}')
    for name, (rgb_rate, thermal_rate, phase) in CASES.items():
        stamps = stamps_of((rgb_rate, thermal_rate), phase)
        best = best_of(stamps)
        for which, delay_ns in DELAYS_NS.items():
            frames = arrivals_of(stamps, delay_ns)
            rounds = [{method: run(make(), frames) for method, make in makers.items()}
                      for _ in range(ROUNDS)]
            for method, (pairs, waits_ms, _) in rounds[0].items():
                cost_us = statistics.median(results[method][2] for results in rounds)
                p50, p99 = np.percentile(waits_ms, (50, 99))
                share = len(best & set(pairs)) / len(best)
                print(f'{f"{name}, {which}":48}{method:17}{len(pairs):7}{share:12.1%}'
                      f'{p50:10.1f}{p99:8.1f}{cost_us:8.1f}')


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
