# SPDX-License-Identifier: Apache-2.0
"""False-color thermal images come back as gray, or are refused by name."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Mode, Pair
from diffmf_ros.core.imaging import false_color as module
from diffmf_ros.core.imaging.false_color import CYCLIC, GRAY, PALETTES, UNKNOWN, FalseColor
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

RANDOM = np.random.default_rng(7)


def scene(low=0, high=255):
    """Return gray 120 x 160: a smooth ground of all levels and a hot and a cold body."""
    ground = cv2.GaussianBlur(RANDOM.random((120, 160)), (0, 0), 12)
    ground = (ground - ground.min()) / np.ptp(ground)
    ground[40:80, 30:50], ground[40:80, 100:130] = 1, 0
    return np.round(low + (high - low) * ground).astype(np.uint8)


def colored(gray, palette):
    """Return gray in a palette of OpenCV, bgr8."""
    return cv2.applyColorMap(gray, getattr(cv2, f'COLORMAP_{palette.upper()}'))


def thermal(pixels, encoding='bgr8'):
    """Return a thermal frame of these pixels."""
    return Frame(THERMAL, 1, 'lwir', pixels, encoding)


@pytest.mark.parametrize('palette', PALETTES)
def test_a_palette_is_undone(palette):
    gray, false_color = scene(), FalseColor()

    found = false_color.to_gray(thermal(colored(gray, palette)))

    assert (false_color.palette, found.encoding) == (palette, 'mono8')
    error = np.abs(found.pixels.astype(int) - gray)
    assert error.mean() < 2 and np.quantile(error, 0.99) <= 8


@pytest.mark.parametrize('palette', ['jet', 'inferno', 'rainbow', 'hot'])
def test_palette_undone_despite_jpeg_and_logo(palette):
    """A palette is undone after JPEG with a logo."""
    gray = scene(20, 230)
    image = colored(gray, palette)
    image[4:14, 4:44] = (255, 0, 255)
    image = cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1],
                         cv2.IMREAD_COLOR)
    false_color = FalseColor()

    found = false_color.to_gray(thermal(image)).pixels.astype(int)

    assert false_color.palette == palette
    assert np.abs(found - gray)[20:].mean() < 8
    assert found[45:75, 33:47].min() > found[45:75, 103:127].max() + 100


@pytest.mark.parametrize('encoding, code', [
    ('rgb8', cv2.COLOR_BGR2RGB), ('rgba8', cv2.COLOR_BGR2RGBA), ('bgra8', cv2.COLOR_BGR2BGRA)])
def test_channel_order_is_followed(encoding, code):
    """The order of the channels is followed."""
    gray = scene()

    found = FalseColor().to_gray(thermal(cv2.cvtColor(colored(gray, 'jet'), code), encoding))

    assert np.abs(found.pixels.astype(int) - gray).mean() < 2


def test_gray_images_stay_unchanged():
    """Gray in three channels and one channel stay as they are."""
    false_color = FalseColor()
    for frame in (thermal(cv2.merge([scene()] * 3)), thermal(scene(), 'mono8'),
                  thermal(scene().astype(np.uint16), 'mono16')):
        assert false_color.to_gray(frame) is frame and false_color.palette == GRAY


def test_rising_palette_read_by_luminance():
    """A palette that rises in luminance is read by it."""
    # given a palette of nobody: black, violet, orange, white
    knots = np.array(((0, 0, 0), (110, 10, 120), (190, 120, 60), (255, 255, 255)), float)
    levels = np.arange(256)
    palette = np.stack([np.interp(levels, (0, 85, 170, 255), knots[:, i]) for i in range(3)],
                       axis=1)
    gray, false_color = scene(), FalseColor()

    found = false_color.to_gray(thermal(palette[gray].astype(np.uint8), 'rgb8'))

    assert false_color.palette == UNKNOWN
    order = [found.pixels[gray == level].mean() for level in range(0, 256, 16)
             if (gray == level).any()]
    assert (np.diff(order) > 0).all()


@pytest.mark.parametrize('palette', CYCLIC)
def test_unordered_palette_is_refused(palette):
    """A palette without an order is refused by name."""
    with pytest.raises(FrameError, match=f'palette {palette}.*choose white-hot') as caught:
        FalseColor().to_gray(thermal(colored(scene(), palette)))
    assert caught.value.reason == 'false_color'


def hues():
    """Return colors 120 x 160 x 3 of no palette."""
    hue = cv2.GaussianBlur(RANDOM.random((120, 160, 3)), (0, 0), 6)
    return np.uint8(255 * (hue - hue.min()) / np.ptp(hue))


def test_colors_of_no_palette_are_refused():
    with pytest.raises(FrameError, match='topic of another camera'):
        FalseColor().to_gray(thermal(hues()))


def test_palette_change_is_followed():
    """A camera that changes its palette is followed."""
    false_color, gray = FalseColor(), scene()
    for palette in ('jet', 'inferno'):
        found = false_color.to_gray(thermal(colored(gray, palette)))
        assert false_color.palette == palette
        assert np.abs(found.pixels.astype(int) - gray).mean() < 2


@pytest.mark.parametrize('palette', ['jet', 'inferno'])
def test_hot_is_bright_when_fused(palette):
    """What is hot is bright in the fused image."""
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'}))
    rgb = Frame(RGB, 1, 'rgb', np.full((120, 160, 3), 60, np.uint8)
                + RANDOM.integers(0, 20, (120, 160, 3), np.uint8),
                'rgb8')
    gray = scene(40, 250)

    fused = pipeline.fuse(Pair(rgb, thermal(colored(gray, palette)), 0))
    plain = pipeline.fuse(Pair(rgb, thermal(gray, 'mono8'), 0))

    assert fused.mode is Mode.CLASSICAL
    assert np.abs(fused.pixels.astype(int) - plain.pixels).mean() < 3


@pytest.mark.parametrize('first', [lambda: colored(scene(), 'hsv'), hues],
                         ids=['cyclic', 'no palette'])
def test_refusal_is_not_searched_again(monkeypatch, first):
    """What is refused costs the search of all palettes once, and another palette ends it."""
    searched, false_color = [], FalseColor()
    nearest = module._nearest
    monkeypatch.setattr(module, '_nearest', lambda colors: searched.append(1) or nearest(colors))
    for _ in range(10):
        with pytest.raises(FrameError, match='choose white-hot'):
            false_color.to_gray(thermal(first()))

    assert len(searched) == 1
    found = false_color.to_gray(thermal(colored(scene(), 'inferno')))
    assert false_color.palette == 'inferno' and found.encoding == 'mono8'
