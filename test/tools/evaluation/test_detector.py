# SPDX-License-Identifier: Apache-2.0
"""Detectors as ONNX files: layouts, letterboxes, suppression of overlaps, and what is refused."""

import sys

import numpy as np
import pytest

pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from detector_files import write_constant, write_hot_spot  # noqa: E402

from diffmf_ros.tools.evaluation.detector import (  # noqa: E402
    LAYOUTS,
    Detector,
    DetectorError,
    choose,
    class_number,
    named,
    pooled,
    read_classes,
    suppressed,
)
from diffmf_ros.tools.evaluation.detector import Detections as Found  # noqa: E402

SIZE = 64, 64
CELLS = 64 + 16 + 4  # of strides 8, 16 and 32
WIDE = np.zeros((32, 64, 3), np.uint8)  # half as high as the input: a letterbox leaves 32 rows


def one_row(count, columns, row, values):
    output = np.zeros((count, columns), np.float32)
    output[row] = values
    return output


def yolox_output():
    """One object in the fourth cell of the second row: 16 x 32 pixels, class 1 at 0.45."""
    return one_row(CELLS, 5 + 2, 8 + 3, [0.5, 0.5, np.log(2), np.log(4), 0.9, 0.0, 0.5])


def nanodet_output(columns=4 * 8 + 2, cells=CELLS):
    """One object around the same cell: sides of 1, 2, 3 and 1 strides, class 1 at 0.7."""
    output = one_row(cells, columns, 8 + 3, 0)
    output[8 + 3, 1] = 0.7
    for side, strides in enumerate((1, 2, 3, 1)):
        output[8 + 3, columns - 32 + 8 * side + strides] = 50  # a softmax of one
    return output


def test_yolox_corner_and_cells(tmp_path):
    """YOLOX lies in the corner and counts in cells."""
    # Given a detector of a known object at center (28, 12)
    detector = Detector(write_constant(tmp_path / 'd.onnx', yolox_output()))
    found = detector(np.zeros((128, 128, 3), np.uint8))  # twice the input
    assert (detector.layout.name, detector.class_count, detector.size) == ('yolox', 2, SIZE)
    # then boxes are in pixels of the picture, cut at its border: y from 12 - 16
    assert found.boxes == pytest.approx(np.array([[40, 0, 72, 56]]), abs=1e-4)
    assert found.scores == pytest.approx([0.45])
    assert found.classes.tolist() == [1]
    assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ('name', 'output'),
    [
        ('yolov5', one_row(3 * CELLS, 5 + 2, 7, [28, 24, 16, 8, 0.9, 0.0, 0.5])),
        ('yolov8', one_row(CELLS, 4 + 2, 7, [28, 24, 16, 8, 0.0, 0.45]).T.copy()),
    ],
)
def test_yolov5_yolov8_middle_and_pixels(tmp_path, name, output):
    """YOLOv5 and YOLOv8 lie in the middle and count in pixels."""
    detector = Detector(write_constant(tmp_path / 'd.onnx', output))
    found = detector(WIDE)
    assert detector.layout.name == name
    # The picture starts 16 rows down in the input.
    assert found.boxes == pytest.approx(np.array([[20, 4, 36, 12]]), abs=1e-4)
    assert (found.scores[0], found.classes[0]) == (pytest.approx(0.45), 1)


@pytest.mark.parametrize(('cells', 'point'), [(CELLS, (28, 12)), (CELLS + 1, (24, 8))])
def test_nanodet_stretched_both_versions(tmp_path, cells, point):
    """NanoDet is stretched and both versions have their points."""
    # Given points in the middle of cells, and Plus with a fourth stride and corners
    output = nanodet_output(cells=cells)
    detector = Detector(write_constant(tmp_path / 'd.onnx', output), layout='nanodet')
    found = detector(WIDE)
    x0, y0, x1, y1 = point[0] - 8, point[1] - 16, point[0] + 24, point[1] + 8
    # then the height is stretched back by one half, and cut at the border
    assert found.boxes == pytest.approx(np.array([[x0, max(0, y0) / 2, x1, y1 / 2]]), abs=1e-3)
    assert found.scores == pytest.approx([0.7])


def test_inputs_follow_their_families():
    """The inputs are those of their families."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 100  # blue, red
    yolox, _ = LAYOUTS['yolox'].place(picture, SIZE)
    assert yolox[0, 0].tolist() == [200, 0, 100] and yolox[40, 0].tolist() == [114, 114, 114]
    yolo, _ = LAYOUTS['yolov8'].place(picture, SIZE)
    assert yolo[32, 0] == pytest.approx(np.array([100, 0, 200]) / 255) and yolo[
        0, 0, 0
    ] == pytest.approx(114 / 255)
    nanodet, _ = LAYOUTS['nanodet'].place(picture, SIZE)
    assert nanodet[63, 63] == pytest.approx(
        [(200 - 103.53) / 57.375, -116.28 / 57.12, (100 - 123.675) / 58.395]
    )


def test_a_detector_reacts_to_the_picture(tmp_path):
    # Given one that finds bright cells, and a gray picture with one of them
    detector = Detector(write_hot_spot(tmp_path / 'd.onnx'))
    picture = np.zeros((64, 64), np.uint8)
    picture[16:24, 40:48] = 204
    boxes, scores, classes = detector(picture)
    assert boxes.tolist() == [[40, 16, 48, 24]]
    assert scores == pytest.approx([0.8]) and classes.tolist() == [0]
    assert len(detector(picture, least_score=0.9).scores) == 0


def test_layouts_told_by_class_count():
    """Layouts that look alike are told apart by the number of classes."""
    assert choose((CELLS, 85), SIZE).name == 'yolox'
    assert choose((CELLS, 112), SIZE).name == 'nanodet'  # 80 classes, not 107
    assert choose((CELLS, 34), SIZE, classes=29).name == 'yolox'
    assert choose((CELLS, 34), SIZE, classes=2).name == 'nanodet'
    with pytest.raises(DetectorError, match='several layouts: yolox, nanodet'):
        choose((CELLS, 34), SIZE)


def test_wrong_class_count_is_refused():
    """Names for another number of classes would call a car a person."""
    few = '2 class names are given .* has classes for 80 of yolox'
    with pytest.raises(DetectorError, match=few):
        choose((CELLS, 85), SIZE, classes=2)
    with pytest.raises(DetectorError, match=few):
        named('yolox', (CELLS, 85), SIZE, classes=2)
    assert named('yolox', (CELLS, 85), SIZE, classes=80).name == 'yolox'


def test_unknown_output_names_shape(tmp_path):
    """An unknown output is refused with its shape."""
    file = write_constant(tmp_path / 'd.onnx', np.zeros((300, 6), np.float32))
    with pytest.raises(
        DetectorError,
        match=r'1 x 300 x 6 of an input of 64x64 pixels is of no known layout.*1 x 84 x',
    ):
        Detector(file)
    with pytest.raises(DetectorError, match='is not that of yolov8'):
        Detector(file, layout='yolov8')
    with pytest.raises(DetectorError, match='expected a detector layout of yolox'):
        Detector(file, layout='retina')


def test_non_detector_files_are_refused(tmp_path):
    """Files that are no detectors are refused."""
    with pytest.raises(DetectorError, match='is not a file'):
        Detector(tmp_path / 'none.onnx')
    (tmp_path / 'text.onnx').write_text('text')
    with pytest.raises(DetectorError, match='is no whole ONNX file'):
        Detector(tmp_path / 'text.onnx')
    gray = write_constant(tmp_path / 'gray.onnx', yolox_output(), dims=[1, 1, 64, 64])
    with pytest.raises(DetectorError, match='expected one picture, 1 x 3 x height x width'):
        Detector(gray)
    unsized = write_constant(tmp_path / 'open.onnx', yolox_output(), dims=[1, 3, 'h', 'w'])
    with pytest.raises(DetectorError, match='leaves the size of its input open'):
        Detector(unsized)
    assert Detector(unsized, size=SIZE).layout.name == 'yolox'


def test_missing_onnxruntime_names_install(tmp_path, monkeypatch):
    """A missing onnxruntime is reported with the remedy."""
    file = write_constant(tmp_path / 'd.onnx', yolox_output())
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(DetectorError, match=r'pip install onnxruntime'):
        Detector(file)


def found(*rows):
    """Detections of (x0, y0, x1, y1, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Found(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
    )


def test_weaker_overlap_is_suppressed():
    """The weaker of two that overlap goes unless it is of another class."""
    got = suppressed(
        found(
            (0, 0, 10, 10, 0.5, 0),
            (1, 0, 11, 10, 0.6, 0),
            (1, 0, 11, 10, 0.4, 1),
            (40, 0, 50, 10, 0.9, 0),
        )
    )
    assert got.scores == pytest.approx([0.9, 0.6, 0.4])
    assert got.classes.tolist() == [0, 0, 1]
    assert len(suppressed(found()).scores) == 0


def test_two_cameras_find_objects_once():
    """Two cameras together find each object once."""
    got = pooled(
        found((0, 0, 10, 10, 0.5, 0), (30, 0, 40, 10, 0.3, 0)), found((0, 1, 10, 10, 0.8, 0))
    )
    assert got.scores == pytest.approx([0.8, 0.3])


def test_class_names_from_file_or_list(tmp_path):
    """Class names come from a file or a list."""
    (tmp_path / 'names.txt').write_text('person\n\ncar\n')
    assert (
        read_classes(str(tmp_path / 'names.txt'))
        == read_classes('person, car')
        == ['person', 'car']
    )
    assert (
        class_number('car', ['person', 'car']),
        class_number('3', None),
        class_number('person', None),
    ) == (1, 3, 0)
    with pytest.raises(DetectorError, match="no class is called 'truck'; known: person, car"):
        class_number('truck', ['person', 'car'])
    with pytest.raises(DetectorError, match='missing.txt does not exist'):
        read_classes('missing.txt')


def test_cut_file_in_plain_words(tmp_path):
    """A file that is cut off is said to be no whole ONNX file."""
    path = write_constant(tmp_path / 'd.onnx', yolox_output())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DetectorError, match='is no whole ONNX file: it is cut off'):
        Detector(path)
