# SPDX-License-Identifier: Apache-2.0
"""What a smaller working size costs in quality, by the way back to full size.

    python benchmarks/scale.py FOLDER

FOLDER holds registered pairs (vi/ and ir/ at or below it). Each way gets the same small fused
images. PSNR and SSIM compare with the full-size output of the network, in 8 bit; the other columns
are fusion metrics. The times are of one thread, CPU time, for the way back alone at 640x480, all
ways in turn.
"""

import argparse
import time
from collections import defaultdict

import cv2
import numpy as np

from diffmf_ros.cli.options import settings_from
from diffmf_ros.inference.engine import Engine
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.inference.working_size import upsample
from diffmf_ros.io.folders import pair_files, read_pair
from diffmf_ros.tools.evaluation.metrics import peak_signal_to_noise, score, structural_similarity

SCALES = (0.5, 0.25)
SHOWN = ('EN', 'SD', 'SF', 'AG', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr255', 'Nabf')
ROUNDS = 25


def enlarged(image, like):
    """The bilinear enlargement of image to the size of like."""
    return cv2.resize(image, like.shape[::-1])


def plain(fused, small_ir, small_y, ir, y):
    """Enlarge the fused image and leave it soft."""
    return enlarged(fused, ir)


def larger_detail(fused, small_ir, small_y, ir, y):
    """Add the larger of the details that shrinking removed from the sources."""
    ir_detail, y_detail = ir - enlarged(small_ir, ir), y - enlarged(small_y, ir)
    return enlarged(fused, ir) + np.where(np.abs(ir_detail) > np.abs(y_detail), ir_detail,
                                          y_detail)


def detail_by_energy(fused, small_ir, small_y, ir, y):
    """Add the details weighted by their energy nearby, as classical fusion does."""
    ir_detail, y_detail = ir - enlarged(small_ir, ir), y - enlarged(small_y, ir)
    ir_strength, y_strength = (np.square(cv2.blur(d * d, (5, 5))) for d in (ir_detail, y_detail))
    share = ir_strength / (ir_strength + y_strength + (0.25 / 255) ** 4)
    return enlarged(fused, ir) + y_detail + share * (ir_detail - y_detail)


def one_guide(guide_of, start_of):
    """A guided filter with one guide that explains fused - start_of(sources)."""
    def way(fused, small_ir, small_y, ir, y):
        def mean(image):
            return cv2.blur(image, (7, 7))

        guide, rest = guide_of(small_ir, small_y), fused - start_of(small_ir, small_y)
        mean_guide, mean_rest = mean(guide), mean(rest)
        slope = (mean(guide * rest) - mean_guide * mean_rest) / (mean(guide * guide)
                                                                 - mean_guide ** 2 + 1e-4)
        offset = mean_rest - slope * mean_guide
        return start_of(ir, y) + enlarged(mean(slope),
                                          ir) * guide_of(ir, y) + enlarged(mean(offset), ir)
    return way


WAYS = {
    'plain enlargement': plain,
    'larger detail': larger_detail,
    'detail by energy': detail_by_energy,
    'guide: maximum': one_guide(cv2.max, lambda ir, y: np.zeros_like(ir)),
    'guide: minimum, from maximum': one_guide(cv2.min, cv2.max),
    'guides: maximum, minimum (ours)': upsample,
}
# What networks of another kind would do; no weights needed.
MODELS = {'average': lambda ir, y: (ir + y) / 2, 'maximum': cv2.max}


def as_bytes(image):
    """The image as it is published, 8 bit."""
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


def likeness(fused, whole):
    """PSNR in dB and SSIM (0 to 1) of one 8-bit image with another."""
    whole, fused = whole.astype(np.float64), fused.astype(np.float64)
    return {'PSNR': min(peak_signal_to_noise(whole, whole, fused), 99.0),
            'SSIM': structural_similarity(whole, whole, fused, data_range=255.0) / 2}


def shrunk(image, scale):
    """The image at scale times the size, as fuse_scaled makes it."""
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def measure(fuse, files, *, with_metrics: bool):
    """Print the table of one network: the means over all pairs for each scale and way."""
    rows = defaultdict(list)
    for visible, infrared in files:
        pair = read_pair(visible, infrared)
        ir, y = (np.float32(1 / 255) * image for image in (pair.ir, pair.vi_y))
        whole = as_bytes(fuse(ir, y))
        if with_metrics:
            rows['full size'].append(score(pair.ir, pair.vi_y, whole)
                                     | {'PSNR': np.nan, 'SSIM': np.nan})
        for scale in SCALES:
            small = shrunk(ir, scale), shrunk(y, scale)
            small_fused = fuse(*small)
            for name, way in WAYS.items():
                fused = as_bytes(way(small_fused, *small, ir, y))
                metrics = score(pair.ir, pair.vi_y, fused) if with_metrics else {}
                rows[f'{scale} {name}'].append(metrics | likeness(fused, whole))
    columns = ('PSNR', 'SSIM', *(SHOWN if with_metrics else ()))
    print('| |' + '|'.join(columns) + '|\n|' + '---|' * (len(columns) + 1))
    for name, values in rows.items():
        means = [np.mean([v[column] for v in values]) for column in columns]
        print(f'| {name} |' + '|'.join(f'{v:.3f}' for v in means) + '|', flush=True)


def print_times():
    """Print the CPU time of each way at 640x480."""
    ir, y = np.random.default_rng(0).random((2, 480, 640), np.float32)
    for scale in SCALES:
        small_ir, small_y = shrunk(ir, scale), shrunk(y, scale)
        spent_ms = defaultdict(list)
        for _ in range(ROUNDS):
            for name, way in WAYS.items():
                start = time.process_time()
                way(small_ir, small_ir, small_y, ir, y)
                spent_ms[name].append(1e3 * (time.process_time() - start))
        print(scale, {name: f'{np.median(values):.2f} ms' for name, values in spent_ms.items()})


def main(folder: str) -> None:
    """Print the tables of `light` and of the stand-ins for other networks, then the times."""
    keep_freed_memory()
    cv2.setNumThreads(1)
    files = pair_files(folder)
    print_times()
    for name, fuse in MODELS.items():
        print(f'\n{name}, {len(files)} pairs')
        measure(fuse, files, with_metrics=False)
    print(f'\nlight, {len(files)} pairs')
    measure(Engine(settings_from(preset='light', precision='float32')), files, with_metrics=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='registered pairs: vi/ and ir/ at or below it')
    main(parser.parse_args().folder)
