# SPDX-License-Identifier: Apache-2.0
"""Registered thermal-visible pairs from folders, and random crops of them."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ..core.frames import DiffmfError

SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff'}


class DataError(DiffmfError):
    """A folder without pairs, a file without its partner, or one that cannot be read."""


@dataclass(frozen=True)
class ImagePair:
    """Infrared and visible luminance of one scene, both H x W uint8."""

    name: str
    ir: np.ndarray = field(repr=False)
    vi_y: np.ndarray = field(repr=False)


def pair_files(folder: Path) -> list[tuple[Path, Path]]:
    """Return (ir, vi) files with equal stems from every folder below that holds `ir/` and `vi/`.

    Raises DataError when there is none, or when a file lacks its partner.
    """
    pairs = []
    for ir_folder in sorted(p for p in Path(folder).rglob('ir') if p.is_dir()):
        ir, vi = ({p.stem: p for p in sorted(f.iterdir()) if p.suffix.lower() in SUFFIXES}
                  for f in (ir_folder, ir_folder.with_name('vi')) if f.is_dir())
        if alone := sorted(ir.keys() ^ vi.keys()):
            raise DataError(f'{ir_folder.parent}: no partner of the same name for {", ".join(alone[:5])}; '
                            'expected the same file names in ir/ and vi/')
        pairs += [(ir[stem], vi[stem]) for stem in ir]
    if not pairs:
        raise DataError(f'no pairs below {folder}: expected folders ir/ and vi/ with files of the same names')
    return pairs


def read_pair(ir_file: Path, vi_file: Path) -> ImagePair:
    """Read one pair as 8-bit luminance. Raises DataError naming the file and the reason."""
    images = [cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) for f in (ir_file, vi_file)]
    for file, image in zip((ir_file, vi_file), images):
        if image is None:
            raise DataError(f'{file} cannot be read as an image')
    if images[0].shape != images[1].shape:
        raise DataError(f'{ir_file} is {images[0].shape} and {vi_file} is {images[1].shape} (height, width): '
                        'training pairs must be registered, hence of one size')
    return ImagePair(ir_file.stem, *images)


class CropSampler:
    """Random square crops with the eight flips and turns; a pure function of (seed, iteration).

    That makes an interrupted training resume exactly: there is no sampler state to save.
    """

    def __init__(self, pairs: list[ImagePair], *, crop: int, batch: int, seed: int):
        usable = [p for p in pairs if min(p.ir.shape) >= crop]
        if not usable:
            raise DataError(f'every image is smaller than the crop of {crop} pixels; choose a smaller crop')
        self._pairs, self._crop, self._batch, self._seed = usable, crop, batch, seed

    def batch(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ir, vi_y) of iteration: batch x 1 x crop x crop float32 in [0, 1]."""
        random = np.random.default_rng((self._seed, iteration))
        crops = [self._crop_of(self._pairs[i], random) for i in random.integers(len(self._pairs), size=self._batch)]
        stacked = np.stack(crops).astype(np.float32) / 255
        return stacked[:, :1], stacked[:, 1:]

    def _crop_of(self, pair, random):
        height, width = pair.ir.shape
        top, left = random.integers(height - self._crop + 1), random.integers(width - self._crop + 1)
        window = slice(top, top + self._crop), slice(left, left + self._crop)
        crop = np.rot90(np.stack((pair.ir[window], pair.vi_y[window])), random.integers(4), axes=(1, 2))
        return crop[:, :, ::-1] if random.integers(2) else crop
