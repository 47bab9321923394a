# SPDX-License-Identifier: Apache-2.0
"""Image files to frames and back."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ..core.file_kinds import JPEG, PNG, explained
from ..core.frames import RGB, THERMAL, DiffmfError, Frame, FrameError, Pair
from ..core.imaging.color import split_luma
from ..core.imaging.compressed import is_cut
from ..core.imaging.encodings import BitDepth
from ..core.imaging.false_color import PALETTES, FalseColor
from ..core.imaging.thermal import levels_of, to_gray
from ..core.settings import DEFAULTS, ThermalSettings
from .paths import PICTURES
from .writing import require_ending, write_bytes

_ENCODINGS = {(np.dtype(np.uint8), 2): 'mono8', (np.dtype(np.uint16), 2): 'mono16',
              (np.dtype(np.float32), 2): '32FC1', (np.dtype(np.uint8), 3): 'bgr8',
              (np.dtype(np.uint16), 3): 'bgr16'}
# First bytes of the formats whose files can hold several pictures: TIFF and GIF.
_PAGED = (b'II*\0', b'MM\0*', b'GIF8')
# The first image that was turned: one is mentioned in a command.
_said_turned: list[Path] = []


class ImageFileError(DiffmfError):
    """An image file cannot be read, or what is in it cannot be fused."""


def read_frame(path: Path, *, stream: str) -> Frame:
    """Read an 8- or 16-bit gray or color, or float32 gray image, turned by its EXIF data.

    Raises ImageFileError when it is missing, unreadable, or of another type.
    """
    # Unlike IMREAD_UNCHANGED these flags obey the orientation; they too keep depth and color, and
    # drop alpha.
    pixels = _decoded(path, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    encoding = _ENCODINGS.get((pixels.dtype, pixels.ndim))
    if encoding is None:
        raise ImageFileError(f'{path} has {pixels.dtype} pixels of shape {pixels.shape}; expected '
                             'gray or color of 8 or 16 bits (unsigned), or gray of float32: '
                             'convert thermal to uint16 in centikelvin, or to float32 in kelvin '
                             'or degrees Celsius (--radiometric-unit)')
    return Frame(stream, 0, '', pixels, encoding)


def read_picture(path: Path, *, stream: str) -> Frame:
    """Read an image file as the node prepares a frame: visible in 8 bits, thermal without palette.

    Raises ImageFileError as read_frame does, and for a visible image of floats, or a colored
    thermal one whose palette is not known.
    """
    return prepared(read_frame(path, stream=stream), path)


def read_luma(path: Path, *, stream: str) -> np.ndarray:
    """Read an image file as luminance, H x W uint8.

    Thermal of 16 bit or float32 through the gain control.

    Raises ImageFileError as read_picture does.
    """
    frame = read_frame(path, stream=stream)
    picture = prepared(frame, path)
    if picture is frame and frame.encoding == 'bgr8':
        # as the decoder makes it, which training has always seen
        return _decoded(path, cv2.IMREAD_GRAYSCALE)
    if stream == RGB:
        return split_luma(picture.pixels, picture.encoding)[0]
    return gray_of(picture, path)


def gray_of(picture: Frame, path: Path,
            settings: ThermalSettings = DEFAULTS.thermal) -> np.ndarray:
    """Return what read_picture() read of a thermal file in gray, H x W uint8.

    Raises ImageFileError, with the path, for an image without a finite value.
    """
    try:
        return to_gray(picture.pixels, picture.encoding,
                       levels_of(picture.pixels, picture.encoding, settings))
    except FrameError as error:
        raise ImageFileError(f'{path}: {error}') from error


def prepared(frame: Frame, path: Path) -> Frame:
    """Return what read_frame() read of a file as read_picture() does; raises as that does."""
    try:
        return (BitDepth().to_8_bit(frame) if frame.stream == RGB
                else FalseColor().to_gray(frame))
    except FrameError as error:
        raise ImageFileError(f'{path}: {error}') from error


def _decoded(path: Path, flags: int) -> np.ndarray:
    """Return the pixels of a file.

    It is read by bytes: OpenCV ends the process for names that are not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f'{path} does not exist') from error
    except OSError as error:
        raise ImageFileError(f'{path} cannot be read as an image: {error.strerror}') from error
    if is_cut(data):
        raise ImageFileError(f'{path} ends early: its end marker is missing; copy it again')
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # more pixels than OpenCV opens, say
        pixels = None
    if pixels is None:
        raise ImageFileError(explained(f'{path} cannot be read as an image', path,
                                       but=(PNG, JPEG)))
    if (orientation := _orientation(data)) > 1 and not _said_turned:
        _said_turned.append(path)
        print(f'note: {path} is turned as its EXIF orientation {orientation} says, and so is '
              'every such image', file=sys.stderr)
    return pixels


def _orientation(data: bytes) -> int:
    """Return how the EXIF data of a JPEG turn it, 1 to 8; 1 (as it is) where they do not say."""
    exif = data[:65_536].partition(b'Exif\0\0')[2] if data.startswith(b'\xff\xd8') else b''
    order: Literal['little', 'big'] = 'big' if exif.startswith(b'MM') else 'little'
    first = int.from_bytes(exif[4:8], order)
    entries = int.from_bytes(exif[first:first + 2], order)
    for entry in range(first + 2, first + 2 + 12 * entries, 12):
        if int.from_bytes(exif[entry:entry + 2], order) == 0x112:
            return int.from_bytes(exif[entry + 8:entry + 10], order)
    return 1


def pages_note(path: Path) -> str:
    """Return a sentence where a TIFF or GIF file has more pictures than the first, else ''."""
    try:
        with path.open('rb') as file:
            head = file.read(4)
            several = head in _PAGED and _has_more_pages(head + file.read())
    except OSError:  # which its reader has said or will say
        return ''
    return f'{path} has several pictures, of which the first is read' if several else ''


def _has_more_pages(data: bytes) -> bool:
    order: Literal['little', 'big'] = 'big' if data.startswith(b'MM') else 'little'
    if not data.startswith(b'GIF8'):
        place = int.from_bytes(data[4:8], order)
        after = place + 2 + 12 * int.from_bytes(data[place:place + 2], order)
        return any(data[after:after + 4])
    return data.count(b'\x21\xf9\x04') > 1


def read_image_pair(rgb: Path, thermal: Path, *, keep_order: bool = False) -> tuple[Pair, str]:
    """Read two files as a pair, with a note on what of them is used.

    When only the second one is in color, and in no palette of thermal cameras, it takes the place
    of the visible image: MRI and PET, say, are told apart by that in either order. A file with
    three equal channels is gray.

    Args:
        rgb, thermal: the files.
        keep_order: the first one is the visible image, whatever is in color.

    Returns:
        The pair, and a sentence where the files changed places or hold more pictures, else ''.

    Raises:
        ImageFileError: as read_frame does.
    """
    pair = read_files(rgb, thermal)
    notes = [note for note in map(pages_note, (rgb, thermal)) if note]
    if keep_order or not look_swapped(pair):
        return pair, '; '.join(notes)
    swapped = Pair(replace(pair.thermal, stream=RGB), replace(pair.rgb, stream=THERMAL),
                   offset_ns=0)
    notes.append(f'{thermal} is in color and {rgb} is gray: the grid and the color are those of '
                 f'{thermal}; --keep-order takes {rgb} for the visible image')
    return swapped, '; '.join(notes)


def look_swapped(pair: Pair) -> bool:
    """Return whether only thermal is in color, and in no palette of thermal cameras."""
    return (in_color(pair.thermal) and not in_color(pair.rgb)
            and not _has_palette(pair.thermal))


def _has_palette(frame: Frame) -> bool:
    """Return whether an image has the colors of a known palette of thermal cameras."""
    palette = FalseColor()
    try:
        palette.to_gray(frame)
    except FrameError:
        return False
    return palette.palette in PALETTES


def read_files(rgb: Path, thermal: Path) -> Pair:
    """Read two files as a pair. Raises ImageFileError, which names both where both are bad."""
    frames, wrong = {}, []
    for stream, path in ((RGB, rgb), (THERMAL, thermal)):
        try:
            frames[stream] = read_frame(path, stream=stream)
        except ImageFileError as error:
            wrong.append(str(error))
    if wrong:
        raise ImageFileError('; '.join(wrong))
    return Pair(frames[RGB], frames[THERMAL], offset_ns=0)


@contextmanager
def naming(rgb: Path, thermal: Path) -> Iterator[None]:
    """Name the files of a pair in what its frames are refused for in the block."""
    try:
        yield
    except FrameError as error:
        raise ImageFileError(f'{rgb} and {thermal}: {error}') from error


def in_color(frame: Frame) -> bool:
    """Whether the channels of an image differ anywhere."""
    pixels = frame.pixels
    return pixels.ndim == 3 and bool((pixels[..., 1:] != pixels[..., :1]).any())


def write_image(path: Path, pixels: np.ndarray, encoding: str, *, overwrite: bool = True) -> None:
    """Write an rgb8 or bgr8 image, in the format that its ending names, whole or not at all.

    Raises:
        WriteError: the ending is none of PICTURES, the file cannot be written, or it exists and
            overwrite is False.
    """
    require_ending(path, PICTURES, what='an image')
    bgr = pixels[:, :, ::-1] if encoding == 'rgb8' else pixels
    write_bytes(path, cv2.imencode(path.suffix, bgr)[1].tobytes(), overwrite=overwrite)
