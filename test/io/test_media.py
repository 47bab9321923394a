# SPDX-License-Identifier: Apache-2.0
"""The contact sheet and the video: sizes, colors, captions, marks, and no half-written file."""

import os
import tempfile

import cv2
import numpy as np
import pytest

from diffmf_ros.io.media import MediaError, Row, contact_sheet, write_contact_sheet, write_video
from diffmf_ros.io.writing import WriteError
from diffmf_ros.tools.batch.films import FilmError, opened


def row(red=200, **other):
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[..., 0] = red
    images = rgb, np.full((48, 64), 120, np.uint8), np.full((48, 64, 3), (10, 20, 30), np.uint8)
    return Row(images, **other)


def test_sheet_places_every_panel(tmp_path):
    """Sheet shows every panel in its place."""
    write_contact_sheet(tmp_path / 'out' / 'sheet.png', [row(200), row(90)], width=64)

    sheet = cv2.imread(str(tmp_path / 'out' / 'sheet.png'))
    # A title bar of 26, two rows of 48 + 6; four margins of 6 around three panels of 64.
    assert sheet.shape == (26 + 2 * 54, 3 * 64 + 24, 3)
    assert sheet[26 + 24, 6 + 32].tolist() == [0, 0, 200]
    assert sheet[26 + 54 + 24, 6 + 32].tolist() == [0, 0, 90]
    assert sheet[26 + 24, 6 + 70 + 32].tolist() == [120, 120, 120]
    assert sheet[26 + 24, 6 + 140 + 32].tolist() == [30, 20, 10]
    assert sheet[:26, :64].max() > 200  # the title


def test_sheet_refuses_nothing_and_floats():
    with pytest.raises(MediaError, match='at least one fused frame'):
        contact_sheet([])
    rgb, thermal, fused = row().images
    with pytest.raises(MediaError, match='uint8, got float32'):
        contact_sheet([Row((rgb, thermal.astype(np.float32), fused))])


def test_caption_bars_per_row():
    """Rows of other captions have a bar each."""
    sheet = contact_sheet([row(captions=('a', 'b', 'c')), row(captions=('d', 'e', 'f'))], width=64)

    assert sheet.shape[0] == 2 * (26 + 48 + 6)
    assert sheet[80:106, :64].max() > 200  # the caption of the second row


def test_marks_fit_boxes_and_panels():
    """Marks lie around their box at the size of the panel."""
    marks = ([((20, 10, 30, 40), True)], [((20, 10, 30, 40), False)], [])

    plain, marked = (contact_sheet([row(marks=m)], width=128) for m in (((), (), ()), marks))

    ys, xs = np.nonzero((plain != marked).any(axis=2))
    left = xs[xs < 6 + 128]
    # Doubled, and four pixels further out on every side; bar 26, margin 6.
    assert (left.min(), left.max()) == (6 + 40 - 4, 6 + 58 + 4)
    assert (ys.min(), ys.max()) == (26 + 20 - 4, 26 + 78 + 4)
    assert marked[26 + 16, 6 + 50].tolist() == [90, 205, 90]
    assert marked[26 + 16, 6 + 134 + 50].tolist() == [40, 140, 255]
    assert xs.max() < 6 + 2 * 134


@pytest.mark.parametrize('name', ['film.mp4', os.fsdecode(b'f\xfclm.mp4')])
def test_video_has_every_frame(tmp_path, name):
    path = tmp_path / name
    written = list(write_video(path, ([row(20 * k)] * 2 for k in range(7)), fps=9, width=64))

    assert written == [1, 2, 3, 4, 5, 6, 7]
    films = opened(path, path)
    assert len(list(films.pairs())) == films.count == 7
    assert films.rate_hz == 9
    assert os.listdir(tmp_path) == [name]


def test_full_temporary_folder_is_named(tmp_path, monkeypatch):
    """A name that is not UTF-8 needs a link; where none can be made, that is no traceback."""
    path = tmp_path / os.fsdecode(b'f\xfclm.mp4')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'gone'))

    with pytest.raises(WriteError, match='cannot be written'):
        list(write_video(path, [[row()]], fps=9))
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b'no video')
    with pytest.raises(FilmError, match='cannot be read as a video: No such file'):
        opened(path, path)


def test_interrupted_video_leaves_nothing(tmp_path):
    def failing():
        yield [row()]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(write_video(tmp_path / 'film.mp4', failing(), fps=9))
    with pytest.raises(MediaError, match='at least one fused frame'):
        list(write_video(tmp_path / 'film.mp4', [], fps=9))

    assert list(tmp_path.iterdir()) == []
