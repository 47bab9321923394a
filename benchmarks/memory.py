# SPDX-License-Identifier: Apache-2.0
"""Time saved by keeping freed memory: a 640x480 pair with and without, in processes of their own,
in turn."""

import argparse
import json
import statistics
import subprocess
import sys

CASES = ({'model': 'classical'}, {'preset': 'light'}, {'preset': 'base'})
ROUNDS, FRAMES = 3, 4


def measure(case: dict, keep: bool) -> float:
    """Return the median of the network stage in ms, in this process."""
    from diffmf_ros.cli.options import settings_from
    from diffmf_ros.inference import pipeline
    from diffmf_ros.tools.bench import benchmark

    if not keep:
        pipeline.keep_freed_memory = lambda: False
    result = benchmark.measure(settings_from(**case), size=(640, 480), frames=FRAMES)
    return result.quantile('network', 0.5)


def main() -> None:
    """Print the medians and their ratio for each case."""
    for case in CASES:
        samples = {True: [], False: []}
        for keep in [True, False] * ROUNDS:
            command = [sys.executable, __file__, json.dumps(case), json.dumps(keep)]
            samples[keep].append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        kept, given_back = (statistics.median(samples[keep]) for keep in (True, False))
        print(f'{case}: kept {kept:.1f} ms, given back {given_back:.1f} ms, ratio '
              f'{given_back / kept:.1f}', flush=True)


if __name__ == '__main__':
    if len(sys.argv) == 3:
        print(measure(*map(json.loads, sys.argv[1:])))
    else:
        argparse.ArgumentParser(description=__doc__).parse_args()
        main()
