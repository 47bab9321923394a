# SPDX-License-Identifier: Apache-2.0
"""Half precision against float32 on real pairs: share of the 8-bit pixels within one gray level.

python benchmarks/precision.py FOLDER [PRESET [MODEL]]: FOLDER holds ir/ and vi/, as for `diffmf
train`.
"""

import sys
from dataclasses import replace

import numpy as np

from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.inference.engine import Engine
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.io.folders import pair_files, read_pair


def levels(engine: Engine, pair) -> np.ndarray:
    """The fused luminance of a pair in gray levels."""
    images = (image.astype(np.float32) / 255 for image in (pair.ir, pair.vi_y))
    return np.rint(255 * engine(*images))


def main() -> None:
    """Print one line per pair, then the worst and the whole."""
    keep_freed_memory()
    folder, *names = sys.argv[1:]
    settings = replace(DEFAULTS, **dict(zip(('preset', 'model'), names)))
    half, full = (Engine(replace(settings, precision=precision))
                  for precision in ('auto', 'float32'))
    shares, largest = [], 0
    for files in pair_files(folder):
        pair = read_pair(*files)
        difference = np.abs(levels(half, pair) - levels(full, pair))
        shares.append((difference <= 1).mean())
        largest = max(largest, int(difference.max()))
    print(f'{half.description} against {full.description}, {len(shares)} pairs: within one level '
          f'{np.mean(shares):.4%} of the pixels, {min(shares):.4%} in the worst pair; largest '
          f'difference {largest}')


if __name__ == '__main__':
    main()
