# SPDX-License-Identifier: Apache-2.0
"""What two cameras send at every tick of 30 Hz, in health and with each fault."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import cv2
import numpy as np
from sensor_msgs.msg import Image

from diffmf_ros.ros.messages import make_header, make_image

PERIOD_NS = 33_333_333
THERMAL_LATER_NS = 3_000_000  # the cameras are not triggered at the same instant
RGB_SIZE, THERMAL_SIZE = (96, 72), (64, 48)
PICTURES = 16


@dataclass(frozen=True)
class Shot:
    """One message: the picture and the stamp of which tick, and what is wrong with it.

    shift_ns is added to the stamp; zero_stamp: the driver sets none. pixels and encoding, when
    given, replace the picture; spoil changes the message that is ready to go. usable: whether a
    node may fuse it.
    """

    tick: int
    picture: int | None = None
    shift_ns: int = 0
    zero_stamp: bool = False
    pixels: np.ndarray | None = None
    encoding: str = ''
    spoil: Callable[[Image], None] | None = None
    usable: bool = True


# (tick, number of ticks since the fault began) -> what the camera sends at this tick
Behavior = Callable[[int, int], list[Shot]]


def healthy(tick: int, since: int) -> list[Shot]:
    """A good picture every tick."""
    return [Shot(tick)]


def off(tick: int, since: int) -> list[Shot]:
    """Nothing: unplugged, or the driver is gone."""
    return []


def stuck(tick: int, since: int) -> list[Shot]:
    """The last picture again and again under new stamps, as while a thermal shutter is closed."""
    return [Shot(tick, picture=tick - since - 1, usable=False)]


def garbage(tick: int, since: int) -> list[Shot]:
    """Messages that are no images: data cut off, an encoding that nobody knows, no width, steps
    too small."""
    spoils = (partial(_set, data=array('B', bytes(7))), partial(_set, encoding='yuv9'),
              partial(_set, width=0), partial(_set, step=3))
    return [Shot(tick, spoil=spoils[since % len(spoils)], usable=False)]


def alternating_rgb(tick: int, since: int) -> list[Shot]:
    """Good pictures in another encoding and depth every frame."""
    encoding, dtype, channels = (('rgb8', np.uint8, (3,)), ('mono8', np.uint8, ()),
                                 ('mono16', np.uint16, ()), ('bgra8', np.uint8, (4,)))[since % 4]
    high = np.iinfo(dtype).max + 1
    return [Shot(tick, pixels=_noise(tick, RGB_SIZE, dtype, 0, high, channels=channels),
                 encoding=encoding)]


def alternating_thermal(tick: int, since: int) -> list[Shot]:
    """Good pictures in another encoding and unit every frame.

    Floats of white noise alone are rightly called flat, so there are patches in them.
    """
    patches = _noise(tick, (8, 6), np.uint16, 7000, 9000)
    counts = np.kron(patches, np.ones((8, 8), np.uint16))
    pixels, encoding = ((counts, '16UC1'), ((counts // 16 - 400).astype(np.uint8), 'mono8'),
                        (counts.astype(np.float32) / 100, '32FC1'),
                        (counts, 'mono16'))[since % 4]
    return [Shot(tick, pixels=pixels, encoding=encoding)]


def telemetry(tick: int, since: int) -> list[Shot]:
    """The picture of a Lepton 2 with three rows of telemetry below it."""
    counts = _noise(tick, (80, 63), np.uint16, 7000, 9000)
    counts[60:] = 0
    return [Shot(tick, pixels=counts, encoding='mono16')]


def invalid_values(tick: int, since: int) -> list[Shot]:
    """Counts with a dead patch of zeros and a masked border of 65535."""
    counts = _noise(tick, THERMAL_SIZE, np.uint16, 7000, 9000)
    counts[:2], counts[20:26, 30:36] = 65535, 0
    return [Shot(tick, pixels=counts, encoding='mono16')]


def false_color(palette: int, *, usable: bool = True) -> Behavior:
    """Pictures colored by a palette of OpenCV."""
    return lambda tick, since: [Shot(
        tick, pixels=cv2.applyColorMap(_noise(tick, THERMAL_SIZE, np.uint8, 0, 256), palette),
        encoding='bgr8', usable=usable)]


def nine_hertz(tick: int, since: int) -> list[Shot]:
    """9 Hz instead of 30, as an exportable thermal camera."""
    return [Shot(tick)] if since * 3 % 10 < 3 else []


def wrong_size(tick: int, since: int) -> list[Shot]:
    """Good 8-bit pictures of another size, as after a driver came back in another video mode."""
    return [Shot(tick, pixels=_noise(tick, (80, 60), np.uint8, 0, 256), encoding='mono8')]


def all_nan(tick: int, since: int) -> list[Shot]:
    """Float pictures without a single number."""
    return [Shot(tick, pixels=np.full(THERMAL_SIZE[::-1], np.nan, np.float32), encoding='32FC1',
                 usable=False)]


def too_large(tick: int, since: int) -> list[Shot]:
    """Pictures of four times as many pixels, more than max_pixels allows here."""
    size = (2 * RGB_SIZE[0], 2 * RGB_SIZE[1])
    return [Shot(tick, pixels=_noise(tick, size, np.uint8, 0, 256), encoding='mono8',
                 usable=False)]


def flat_thermal(tick: int, since: int) -> list[Shot]:
    """Counts of a lens cap: one temperature and noise, never twice the same."""
    return [Shot(tick, pixels=_noise(tick, THERMAL_SIZE, np.uint16, 8000, 8020), encoding='mono16',
                 usable=False)]


def black_rgb(tick: int, since: int) -> list[Shot]:
    """A covered lens: black, with noise."""
    return [Shot(tick, pixels=_noise(tick, RGB_SIZE, np.uint8, 0, 8, channels=(3,)),
                 encoding='bgr8', usable=False)]


def white_rgb(tick: int, since: int) -> list[Shot]:
    """An exposure that has run away: white, with noise."""
    return [Shot(tick, pixels=_noise(tick, RGB_SIZE, np.uint8, 248, 256, channels=(3,)),
                 encoding='bgr8', usable=False)]


def slow(tick: int, since: int) -> list[Shot]:
    """5 Hz instead of 30."""
    return [Shot(tick)] if since % 6 == 0 else []


def delayed(tick: int, since: int) -> list[Shot]:
    """Every picture, with its right stamp, 5 ticks (167 ms) after the event."""
    return [Shot(tick - 5)] if since >= 5 else []


def intermittent(tick: int, since: int) -> list[Shot]:
    """167 ms of nothing, 167 ms of pictures, and so on: gaps shorter than source_timeout_s."""
    return [] if since % 10 < 5 else [Shot(tick)]


def flapping(tick: int, since: int) -> list[Shot]:
    """800 ms of nothing, 500 ms of pictures, and so on: gaps longer than source_timeout_s."""
    return [] if since % 39 < 24 else [Shot(tick)]


def unstamped(tick: int, since: int) -> list[Shot]:
    """Stamps of zero."""
    return [Shot(tick, zero_stamp=True)]


def shifted(seconds: float) -> Behavior:
    """A clock that is this much ahead (or, negative, behind)."""
    return lambda tick, since: [Shot(tick, shift_ns=round(seconds * 1e9))]


def duplicated(tick: int, since: int) -> list[Shot]:
    """Every message twice."""
    return [Shot(tick), Shot(tick)]


def reordered(tick: int, since: int) -> list[Shot]:
    """Every second message overtakes the one before."""
    return [Shot(tick), Shot(tick - 1)] if since % 2 else []


def rgb_message(shot: Shot, stamp_ns: int) -> Image:
    """The message of the RGB camera: bgr8 noise, another one every tick."""
    return _message(shot, stamp_ns, 'rgb_optical', _picture('rgb', _index(shot)), 'bgr8')


def thermal_message(shot: Shot, stamp_ns: int) -> Image:
    """The message of the thermal camera: mono16 noise, another one every tick."""
    return _message(shot, stamp_ns, 'thermal_optical', _picture('thermal', _index(shot)), 'mono16')


def _message(shot: Shot, stamp_ns: int, frame_id: str, pixels: np.ndarray, encoding: str) -> Image:
    header = make_header(0 if shot.zero_stamp else stamp_ns + shot.shift_ns, frame_id)
    if shot.pixels is not None:
        pixels, encoding = shot.pixels, shot.encoding
    message = make_image(pixels, encoding, header)
    if shot.spoil is not None:
        shot.spoil(message)
    return message


def _set(message: Image, **fields) -> None:
    for name, value in fields.items():
        setattr(message, name, value)


def _index(shot: Shot) -> int:
    return (shot.tick if shot.picture is None else shot.picture) % PICTURES


@cache
def _picture(stream: str, index: int) -> np.ndarray:
    if stream == 'rgb':
        return _noise(index, RGB_SIZE, np.uint8, 0, 256, channels=(3,))
    return _noise(index, THERMAL_SIZE, np.uint16, 7000, 9000)


def _noise(seed: int, size: tuple[int, int], dtype: type, low: int, high: int, *,
           channels=()) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (*size[::-1], *channels), dtype=dtype)
