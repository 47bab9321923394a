# SPDX-License-Identifier: Apache-2.0
"""One reader of image files for all commands.

Any name, any depth, upright, in the order people count.
"""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from diffmf_ros.cli.main import run
from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.core.imaging.camera_picture import CameraPicture
from diffmf_ros.core.imaging.color import split_luma
from diffmf_ros.core.imaging.thermal import levels_of, to_gray
from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.io import images as image_files
from diffmf_ros.io.bag_messages import frames
from diffmf_ros.io.bags import BagReader
from diffmf_ros.io.folders import natural, read_folder, read_pair, write_bag
from diffmf_ros.io.images import (
    read_files,
    read_frame,
    read_image_pair,
    write_image,
)
from diffmf_ros.io.writing import WriteError
from diffmf_ros.tools.evaluation import scoring
from diffmf_ros.tools.evaluation.eval_files import read_images

LATIN_1 = os.fsdecode(b'r\xfc.png')


def write(path, pixels):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def turned_jpeg(path, pixels, *, orientation):
    """Write a JPEG whose EXIF data says how it is to be turned."""
    exif = (b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01'
            + orientation.to_bytes(2, 'big') + b'\0\0\0\0\0\0')
    jpeg = cv2.imencode('.jpg', pixels)[1].tobytes()
    path.write_bytes(jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:])
    return path


def scene(low, high, shape=(40, 50)):
    """Return counts from low to high, rising from left to right, as a radiometric camera gives
    them."""
    return np.tile(np.linspace(low, high, shape[1]), (shape[0], 1)).astype(np.uint16)


def test_non_utf8_names_round_trip(tmp_path):
    """A name that is not UTF-8 is read and written."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)

    write_image(tmp_path / LATIN_1, pixels, 'bgr8')

    assert os.listdir(os.fsencode(tmp_path)) == [b'r\xfc.png']
    np.testing.assert_array_equal(read_frame(tmp_path / LATIN_1, stream=RGB).pixels, pixels)


def test_fuse_handles_non_utf8_names(tmp_path):
    """Fuse takes and makes names that are not UTF-8."""
    write(tmp_path / LATIN_1, np.full((24, 32, 3), 90, np.uint8))
    write(tmp_path / 'thermal.png', np.full((24, 32), 90, np.uint8))
    out = tmp_path / os.fsdecode(b'\xe9.png')

    done = subprocess.run(
        [sys.executable, '-m', 'diffmf_ros.cli.main', 'fuse', tmp_path / LATIN_1,
         tmp_path / 'thermal.png', '-o', out,
         '--model', 'classical'], capture_output=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert b'\xe9.png: ' in done.stdout
    assert out.stat().st_size > 0


@pytest.mark.parametrize('low, high', [(28300, 30900), (7000, 9000)])
def test_16_bit_thermal_in_training(tmp_path, low, high):
    """Thermal of 16-bit keeps its levels in training."""
    # Given counts whose high byte has few values
    pair = read_pair(write(tmp_path / 'vi.png', np.zeros((40, 50), np.uint8)),
                     write(tmp_path / 'ir.png', scene(low, high)))

    # Then the 50 columns have 50 gray levels over nearly the full range
    assert pair.ir.dtype == np.uint8
    assert len(np.unique(pair.ir)) >= 48
    assert np.ptp(pair.ir.astype(int)) >= 240
    assert (np.diff(pair.ir[0].astype(int)) >= 0).all()


def test_float_thermal_in_training_and_bags(tmp_path):
    """Float thermal is read for training and bags."""
    celsius = np.tile(np.linspace(15, 38, 50, dtype=np.float32), (40, 1))
    write(tmp_path / 'vi' / '0.png', np.zeros((40, 50, 3), np.uint8))
    write(tmp_path / 'ir' / '0.tiff', celsius)

    (pair,) = read_folder(tmp_path, rate_hz=1)
    list(write_bag([pair], tmp_path / 'bag'))

    assert len(np.unique(read_pair(pair.visible, pair.infrared).ir)) >= 48
    with BagReader(tmp_path / 'bag') as bag:
        thermal = next(frame for frame in frames(bag, '/rgb/image_raw', '/thermal/image_raw')
                       if frame.stream == THERMAL)
    assert thermal.encoding == '32FC1'
    np.testing.assert_array_equal(thermal.pixels, celsius)


def of_frame(frame):
    """A frame in gray, as the node sees it."""
    picture = CameraPicture(frame.stream).of(frame, DEFAULTS)
    if frame.stream == RGB:
        return split_luma(picture.pixels, picture.encoding)[0]
    return to_gray(picture.pixels, picture.encoding,
                   levels_of(picture.pixels, picture.encoding, DEFAULTS.thermal))


COLOR = np.random.default_rng(5).integers(0, 200, (40, 50, 3), np.uint8)
WARM = np.rint(scene(28300, 30900) / 12 - 2340).astype(np.uint8)  # 18 to 235


@pytest.mark.parametrize('visible, thermal', [
    (scene(0, 4095), scene(28300, 30900)),  # 12 of 16 bits
    (COLOR.astype(np.uint16) * 257, scene(28300, 30900).astype(np.float32) / 100 - 273),
    (np.dstack([COLOR, COLOR[..., 0]]), WARM),  # transparency
    (COLOR[..., 0], WARM),
    (COLOR, np.dstack([WARM] * 3)),
    (COLOR, cv2.applyColorMap(WARM, cv2.COLORMAP_JET)),  # of which luminance says nothing
])
def test_every_reader_sees_the_same(tmp_path, visible, thermal):
    """fuse and align, train, eval, models --score and make-bag: one picture of every file."""
    files = [write(tmp_path / folder / '0.tiff', pixels)
             for folder, pixels in (('vi', visible), ('ir', thermal))]
    pair = read_files(*files)
    seen = of_frame(pair.rgb), of_frame(pair.thermal)
    list(write_bag(read_folder(tmp_path, rate_hz=1), tmp_path / 'bag'))
    with BagReader(tmp_path / 'bag') as reader:
        recorded = {frame.stream: of_frame(frame)
                    for frame in frames(reader, '/rgb/image_raw', '/thermal/image_raw')}
    trained, (scored, _) = read_pair(*files), scoring.read_pair(*files)
    evaluated = read_images('0', dict(zip(('visible', 'thermal'), files)), DEFAULTS.thermal)

    for reader in ((recorded[RGB], recorded[THERMAL]), (trained.vi_y, trained.ir),
                   (scored.vi_y, scored.ir), (evaluated.vi_y, evaluated.ir)):
        for image, expected in zip(reader, seen, strict=True):
            # Two decoders and one formula of luminance round differently
            np.testing.assert_allclose(image.astype(int), expected, atol=1)
    assert np.corrcoef(seen[1].ravel(), WARM.ravel())[0, 1] > 0.99
    assert np.ptp(seen[0]) > 150


@pytest.mark.parametrize('heat, keep_order, changed', [
    (cv2.applyColorMap(WARM, cv2.COLORMAP_JET), False, False),  # as thermal cameras color
    (COLOR, False, True),  # as PET does
    (COLOR, True, False),
])
def test_colored_heat_of_gray_scenes(tmp_path, heat, keep_order, changed):
    """A night camera and colored thermal stay in order; others change places unless asked."""
    files = write(tmp_path / 'a.png', COLOR[..., 0]), write(tmp_path / 'b.png', heat)

    pair, note = read_image_pair(*files, keep_order=keep_order)

    assert (pair.rgb.encoding == 'bgr8', '--keep-order' in note) == (changed, changed)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_orientation_is_obeyed_by_every_reader(tmp_path, capsys, monkeypatch, orientation):
    monkeypatch.setattr(image_files, '_said_turned', [])
    # Given a picture that is bright at its left, stored upright, upside down, or on a side
    stored = np.full((24, 32, 3), 20, np.uint8)
    stored[:, :8] = 220
    path = turned_jpeg(tmp_path / 'a.jpg', stored, orientation=orientation)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # counter-clockwise
    upright = np.rot90(stored, turns)

    color = read_frame(path, stream=RGB).pixels
    luma = read_pair(path, path).vi_y

    assert color.shape == upright.shape
    assert np.abs(color.astype(int) - upright).mean() < 6
    assert np.abs(luma.astype(int) - upright[..., 0]).mean() < 6
    said = f'note: {path} is turned as its EXIF orientation {orientation} says, and so is'
    assert capsys.readouterr().err.count(said) == (orientation != 1)


@pytest.mark.parametrize('pixels', [
    np.random.default_rng(1).integers(0, 256, (5, 7), np.uint8),
    np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8),
    np.random.default_rng(1).integers(0, 65536, (5, 7), np.uint16)],
                         ids=['gray', 'color', '16-bit'])
@pytest.mark.parametrize('ending', ['.png', '.tiff'])
def test_pixels_come_as_they_are(tmp_path, pixels, ending):
    np.testing.assert_array_equal(read_frame(write(tmp_path / f'a{ending}', pixels),
                                             stream=THERMAL).pixels, pixels)


def test_transparency_is_left_out(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)

    frame = read_frame(write(tmp_path / 'a.png', pixels), stream=RGB)

    assert frame.encoding == 'bgr8'
    np.testing.assert_array_equal(frame.pixels, pixels[:, :, :3])


def test_further_pages_are_mentioned(tmp_path):
    """A file of several pictures is read to the first, and the pair's note and JSON say so."""
    cv2.imwritemulti(str(tmp_path / 'two.tiff'), [COLOR, 255 - COLOR])
    write(tmp_path / 'one.tiff', COLOR[..., 0])

    pair, note = read_image_pair(tmp_path / 'two.tiff', tmp_path / 'one.tiff')

    assert (pair.rgb.pixels == COLOR).all()
    assert note == f'{tmp_path}/two.tiff has several pictures, of which the first is read'
    assert run(['fuse', f'{tmp_path}/two.*', f'{tmp_path}/one.*', '-o', f'{tmp_path}/out',
                '--model', 'classical', '--json', f'{tmp_path}/told.json']) == 0
    assert json.loads((tmp_path / 'told.json').read_text())['images'][0]['note'] == note


def test_unknown_output_format_refused_early(tmp_path):
    """An output of no image format is refused before it is made."""
    for name in ('a.txt', 'a', os.fsdecode(b'a.\xfc')):
        with pytest.raises(WriteError, match='an image has a name that ends in .png'):
            write_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8), 'bgr8')
    assert list(tmp_path.iterdir()) == []


def test_numbers_in_names_count(tmp_path):
    for k in range(1, 13):
        for folder in ('vi', 'ir'):
            write(tmp_path / folder / f'frame_{k}.png', np.full((4, 5), k, np.uint8))

    order = [pair.visible.stem for pair in read_folder(tmp_path, rate_hz=10)]

    assert order == [f'frame_{k}' for k in range(1, 13)]
    assert sorted(['b', 'a10', 'a2', '7', 'a', '10', 'a02', 'x²'], key=natural) == [
        '7', '10', 'a', 'a02', 'a2', 'a10', 'b', 'x²']


def test_scoring_16_bit_uses_gain_control(tmp_path):
    """Scoring takes thermal of 16-bit through the gain control."""
    # Given counts of a radiometric camera, and what the gain control makes of them
    visible = write(tmp_path / 'vi.png', np.full((40, 50, 3), 90, np.uint8))
    infrared = write(tmp_path / 'ir.png', scene(28300, 30900))

    pair, seen = scoring.read_pair(visible, infrared)

    np.testing.assert_array_equal(pair.ir, read_pair(visible, infrared).ir)
    assert len(np.unique(pair.ir)) >= 48 and seen.shape == (40, 50, 3)
