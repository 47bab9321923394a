# SPDX-License-Identifier: Apache-2.0
"""Doubts about what an evaluation is given: boxes of other images, folders that changed places, a
sequence in which nothing is static."""

import math
from collections.abc import Iterable
from pathlib import Path

from ...io.images import ImageFileError, look_swapped, read_files
from .detection_scores import Boxes, BoxesError
from .eval_files import Source
from .evaluate import Evaluation

SHOWN_NAMES = 3
LEAST_STATIC = 0.05  # of the pixels; the clips of docs/quality.md have 0.8 and more


def boxes_note(path: Path, boxes: Boxes, images: Iterable[Source]) -> str:
    """Return a sentence on the entries that are of no image, or ''.

    Args:
        path: the file of the boxes.
        boxes: those in it.
        images: of the folders, those of which a file is missing, too.

    Raises:
        BoxesError: not one entry is of an image.
    """
    images = list(images)
    known = {name for image in images for name in (image.stem, f'{image.dataset}_{image.stem}')}
    strange = [name for name in boxes.names if name not in known]
    if len(strange) < len(boxes.names):
        shown = ', '.join(strange[:SHOWN_NAMES]) + (', ...' if strange[SHOWN_NAMES:] else '')
        return (f'{len(strange)} of {len(boxes.names)} entries of --boxes are of no image: '
                f'{shown}' if strange else '')
    one = images[0]
    raise BoxesError(f'{path}: none of its {len(strange)} entries, such as {strange[0]}, '
                     f'is of an image; expected DATASET_STEM or STEM, such as '
                     f'{one.dataset}_{one.stem} or {one.stem}')


def swapped_note(images: Iterable[Source]) -> str:
    """Return a sentence where every thermal image is in color, and every visible one gray, or ''.

    Pairs that cannot be read do not count."""
    seen = False
    for image in images:
        try:
            if image.files and not look_swapped(read_files(image.files['visible'],
                                                           image.files['thermal'])):
                return ''
        except ImageFileError:
            continue
        seen = seen or bool(image.files)
    return ('the folders look swapped: all thermal images are in color and all visible ones '
            'gray' if seen else '')


def flicker_note(evaluation: Evaluation) -> str:
    """Return a sentence where flicker was measured on nearly no pixels, or ''."""
    shares = [measured.static_share for measured in evaluation.flicker.values()]
    if not shares or shares[0] >= LEAST_STATIC:
        return ''
    if math.isnan(shares[0]):
        return 'flicker is not measured: no two scored frames of one size follow each other'
    return (f'flicker says little: {100 * shares[0]:.1f} % of the pixels are static in both '
            'cameras; are the images consecutive frames, of a camera that stands?')
