# SPDX-License-Identifier: Apache-2.0
"""The least milliseconds a 640x480 pair can take on boards that were not at hand.

Calculated, not measured.

Work is counted as `tools/bench/roofs.py` does, in float16, at the full bandwidth and the full
matrix rate of the data sheets.
"""

import argparse

from diffmf_ros.models import PRESETS
from diffmf_ros.tools.bench.roofs import Roofs, work_of_preset

SIZE = (640, 480)
# GB/s, dense float16 TFLOP/s. Sparse INT8 TOPS, which Jetson data sheets quote, are four times the
# latter.
DEVICES = {'RTX 4090': (1008, 165), 'AGX Thor': (273, 258), 'AGX Orin 64 GB': (204.8, 42.5),
           'Orin NX 16 GB': (102.4, 15), 'Orin Nano 8 GB super': (102, 16.7)}


def main() -> None:
    """Print a Markdown table."""
    print(f'| network | multiply-adds | bytes | {" | ".join(DEVICES)} |')
    print('|---' * (3 + len(DEVICES)) + '|')
    for model, preset in ((model, preset) for model,
                          presets in PRESETS.items() for preset in presets):
        work = work_of_preset(model, preset, SIZE)
        floors = (Roofs(name, 'float16', teraflops * 1e12, gigabytes * 1e9, 2).floor_ms(work)
                  for name, (gigabytes, teraflops) in DEVICES.items())
        cells = (f'{floor:.1f} ms, {1e3 / floor:.0f}/s' for floor in floors)
        row = (f'{model} `{preset}`', f'{work.operations / 2e9:.1f} G',
               f'{2 * work.elements / 1e9:.2f} GB', *cells)
        print(f'| {" | ".join(row)} |')


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
