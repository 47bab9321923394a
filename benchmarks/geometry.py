# SPDX-License-Identifier: Apache-2.0
"""What alignment costs: the mapping of a pair, a change of depth, of trim, of the camera info, and
the warp itself.

CPU milliseconds (median of the rounds, in turn) for two calibrated cameras with lens distortion,
per output grid.
"""

import argparse
import statistics
import time
from itertools import count

import cv2
import numpy as np

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.geometry import Aligner
from diffmf_ros.core.alignment.rig import Extrinsics
from diffmf_ros.core.settings import AlignmentSettings
from diffmf_ros.inference.memory import keep_freed_memory

RGB = CameraModel((640, 480), ((520.0, 0.0, 317.2), (0.0, 523.0, 244.5), (0.0, 0.0, 1.0)),
                  (-0.32, 0.12, 8e-4, -5e-4, -0.02))
THERMAL = CameraModel((320, 256), ((245.0, 0.0, 161.3), (0.0, 244.0, 125.1), (0.0, 0.0, 1.0)),
                      (-0.18, 0.05, -6e-4, 4e-4, 0.0))
MOUNTING = Extrinsics(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (-0.06, 0.02, -0.03))


def cases(grid: str, rgb: CameraModel, thermal: CameraModel) -> dict:
    """Return name -> function of one call."""
    settings = AlignmentSettings(from_tf=True, output_grid=grid)
    aligner = Aligner(settings)
    aligner.set_camera('rgb', rgb)
    aligner.set_camera('thermal', thermal)
    aligner.set_extrinsics(MOUNTING)
    random, number = np.random.default_rng(0), count(1)
    heat = random.integers(0, 256, thermal.size[::-1], np.uint8)
    color = random.integers(0, 256, (*rgb.size[::-1], 3), np.uint8)

    def mapping():
        return aligner.mapping(rgb_size=rgb.size, thermal_size=thermal.size)

    def depth():
        aligner.set_depth_m(5 + 0.01 * next(number))
        mapping()

    def trim():
        aligner.configure(AlignmentSettings(from_tf=True, output_grid=grid,
                                            trim_x_px=0.01 * next(number)))
        mapping()

    current = mapping()
    return {'mapping, unchanged': mapping, 'depth changed': depth, 'trim changed': trim,
            'warp of thermal': lambda: current.thermal(heat),
            'warp of RGB': lambda: current.rgb(color)}


def main() -> None:
    """Print every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=100)
    parser.add_argument('--double', action='store_true',
                        help='1280x960 and 640x512 in place of 640x480 and 320x256')
    options = parser.parse_args()
    keep_freed_memory()
    cv2.setNumThreads(options.threads)
    scale = 2 if options.double else 1
    rgb, thermal = (camera.scaled_to(tuple(scale * side for side in camera.size))
                    for camera in (RGB, THERMAL))
    for grid in ('rgb', 'thermal'):
        functions = cases(grid, rgb, thermal)
        samples = {name: [] for name in functions}
        for _ in range(options.rounds):
            for name, function in functions.items():
                start = time.process_time_ns()
                function()
                samples[name].append((time.process_time_ns() - start) / 1e6)
        print(f'{rgb.size} RGB, {thermal.size} thermal, grid {grid}: '
              + ', '.join(f'{name} {statistics.median(values):.3f} ms' for name,
                          values in samples.items()))


if __name__ == '__main__':
    main()
