# SPDX-License-Identifier: Apache-2.0
"""RGB images of 10 to 16 bits a value become 8-bit ones of the right brightness."""

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Mode, Pair
from diffmf_ros.core.imaging.encodings import BitDepth
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline


def frame(pixels, encoding):
    return Frame(RGB, 1_000_000, 'rgb', pixels, encoding)


@pytest.mark.parametrize('bits', [10, 12, 14, 16])
@pytest.mark.parametrize('encoding, eight, shape',
                         [('mono16', 'mono8', (8, 32)), ('bgr16', 'bgr8', (8, 32, 3)),
                                                    ('rgba16', 'rgba8', (8, 16, 4))])
def test_sensor_bits_span_8_bits(bits, encoding, eight, shape):
    """All bits of the sensor span all of the 8."""
    pixels = np.linspace(0, 2 ** bits - 1, np.prod(shape)).astype(np.uint16).reshape(shape)

    small = BitDepth().to_8_bit(frame(pixels, encoding))

    assert small.encoding == eight and small.pixels.dtype == np.uint8
    assert np.abs(small.pixels - pixels * 255.0 / (2 ** bits - 1)).max() <= 0.51


def test_darkening_scene_keeps_brightness():
    """A scene that becomes dark keeps its brightness."""
    depth = BitDepth()
    depth.to_8_bit(frame(np.full((4, 4), 4000, np.uint16), 'mono16'))

    assert depth.to_8_bit(frame(np.full((4, 4), 800, np.uint16), 'mono16')).pixels[0, 0] == 50


@pytest.mark.parametrize('hot', [1, 8])
def test_hot_pixels_do_not_darken(hot):
    """A few values of 65535 are clipped, and leave the brightness of 10 bits as it is."""
    depth, pixels = BitDepth(), np.full((48, 64, 3), 512, np.uint16)
    before = depth.to_8_bit(frame(pixels, 'rgb16')).pixels
    defect = pixels.copy()
    defect.reshape(-1)[:hot] = 65535

    assert before[-1, -1, 0] == 128
    shown = depth.to_8_bit(frame(defect, 'rgb16')).pixels.reshape(-1)
    assert (shown[:hot] == 255).all() and (shown[hot:] == 128).all()
    assert (depth.to_8_bit(frame(pixels, 'rgb16')).pixels == before).all()


@pytest.mark.parametrize('shape, lit', [((2, 2, 3), 1), ((480, 640, 3), 300)])
def test_lamps_count(shape, lit):
    """A lamp is larger than a hot pixel, and in a small image every value counts."""
    pixels = np.full(shape, 512, np.uint16)
    pixels.reshape(-1)[:lit] = 4095

    shown = BitDepth().to_8_bit(frame(pixels, 'rgb16')).pixels.reshape(-1)

    assert shown[0] == 255 and shown[-1] == 32


@pytest.mark.parametrize('encoding, shape', [('mono16', (8, 32, 3)), ('rgb16', (16, 16, 3)),
                                             ('rgb8', (8, 32, 3))])
def test_another_kind_begins_anew(encoding, shape):
    """Another encoding or another size of the images begins anew; the same one does not shrink."""
    depth, dim = BitDepth(), frame(np.full((8, 32, 3), 512, np.uint16), 'rgb16')
    depth.to_8_bit(frame(np.full((8, 32, 3), 60_000, np.uint16), 'rgb16'))
    assert depth.to_8_bit(dim).pixels.max() == 2

    depth.to_8_bit(frame(np.zeros(shape, np.uint8 if '8' in encoding else np.uint16), encoding))

    assert depth.to_8_bit(dim).pixels.max() == 128


def test_eight_bits_pass_floats_refused():
    """Eight bits pass and floats are refused by name."""
    plain = frame(np.zeros((4, 4, 3), np.uint8), 'rgb8')

    assert BitDepth().to_8_bit(plain) is plain
    with pytest.raises(FrameError, match='got 32FC1') as refused:
        BitDepth().to_8_bit(frame(np.zeros((4, 4), np.float32), '32FC1'))
    assert refused.value.reason == 'not_8_bit'


def test_12_bit_fuses_like_8_bit():
    """A 12-bit image is fused as its 8-bit copy."""
    random = np.random.default_rng(2)
    eight = random.integers(40, 200, (48, 64, 3), np.uint8)
    wide = (eight.astype(np.uint32) * 4095 // 255).astype(np.uint16)
    wide[0, 0] = 4095
    eight[0, 0] = 255
    heat = Frame(THERMAL, 1_000_000, 'lwir', random.integers(7000, 9000, (48, 64), np.uint16),
                 'mono16')
    settings = with_changes(DEFAULTS, {'model': 'classical'})

    results = [FusionPipeline(settings).fuse(Pair(frame(pixels, encoding), heat, 0))
               for pixels, encoding in ((wide, 'bgr16'), (eight, 'bgr8'))]

    assert [result.mode for result in results] == [Mode.CLASSICAL] * 2
    assert np.abs(results[0].pixels.astype(int) - results[1].pixels).max() <= 2
