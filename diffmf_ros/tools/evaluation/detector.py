# SPDX-License-Identifier: Apache-2.0
"""A user's own object detector, an ONNX file, as a function of a picture.

Its layout is the convention of one family of exports: what the file wants to see, and how its
output is read. Sizes are (width, height) in pixels; boxes are x0, y0, x1, y1. Which one a file has
follows from the shape of its output, where that is certain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...core.file_kinds import explained
from ...core.frames import DiffmfError

LEAST_SCORE = 0.01  # for the average precision, which looks at unsure finds too
MOST_OVERLAP = 0.45  # intersection over union; the weaker of two boxes of one class goes
MOST_DETECTIONS = 300
AUTO = 'auto'
FILL = 114  # the gray around a picture that does not fill the input, in all families that pad
STRIDES = 8, 16, 32
NANODET_BINS = 8  # of the distribution that each side of a box has
NANODET_MEAN, NANODET_SCALE = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR
COCO_CLASSES = 80
Size = tuple[int, int]


class Detections(NamedTuple):
    """Objects in a picture: boxes N x 4 float32 (x0, y0, x1, y1 px), scores N float32, classes N.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def only(self, keep: np.ndarray) -> 'Detections':
        """Return those of a mask or of indices."""
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])


class Detector:
    """Finds objects in pictures with an ONNX file through onnxruntime, on the CPU.

    Args:
        path: the file; its one input is 1 x 3 x height x width, float32 or float16.
        layout: 'yolox', 'yolov5', 'yolov8' or 'nanodet' (see Layout); 'auto' takes what the
            output proves.
        classes: number of classes, where it is known; decides between layouts that look alike.
        size: (width, height) of the input, for a file that leaves it open.
        threads: of onnxruntime; 0 is one per core.

    Raises:
        DetectorError: onnxruntime is missing, the file cannot be loaded or is of no known layout.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layout: str = AUTO,
        classes: int | None = None,
        size: Size | None = None,
        threads: int = 0,
    ):
        self.path = Path(path)
        self._session = _session(self.path, threads)
        self._input = self._session.get_inputs()[0]
        self.size = _input_size(self.path, self._session, size)
        shape = self._run(np.zeros((self.size[1], self.size[0], 3), np.float32)).shape
        try:
            self.layout = (choose(shape, self.size, classes=classes) if layout == AUTO
                           else named(layout, shape, self.size, classes=classes))
        except DetectorError as error:
            raise DetectorError(f'{self.path}: {error}') from error
        self.class_count = self.layout.decode(np.zeros(shape, np.float32), self.size)[1].shape[1]

    def __call__(self, picture: np.ndarray, *, least_score: float = LEAST_SCORE) -> Detections:
        """Return the objects in a picture, H x W x 3 uint8 BGR or H x W gray, the surest first."""
        if picture.ndim == 2:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        pixels, placement = self.layout.place(picture, self.size)
        boxes, scores = self.layout.decode(self._run(pixels), self.size)
        cells, classes = np.nonzero(scores >= least_score)
        height, width = picture.shape[:2]
        inside = np.clip(placement.to_picture(boxes[cells]), 0, (width, height, width, height))
        return suppressed(
            Detections(
                inside.astype(np.float32), scores[cells, classes].astype(np.float32), classes
            )
        )

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """Run H x W x 3 and return the first output as float32, without its batch axis."""
        kind = np.float16 if 'float16' in self._input.type else np.float32
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=kind)
        try:
            output = self._session.run(None, {self._input.name: batch})[0]
        except Exception as error:  # the bindings derive their exceptions from Exception itself
            reason = f'onnxruntime raised {type(error).__name__}: {error}'
            raise DetectorError(f'{self.path}: {reason}') from error
        return (
            np.asarray(output, np.float32)[0]
            if np.ndim(output)
            else np.asarray(output, np.float32)
        )


def suppressed(found: Detections) -> Detections:
    """Return detections without those that overlap a surer one of their class, surest first."""
    kept = []
    corner_and_size = np.concatenate(
        [found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1
    )
    for number in np.unique(found.classes):
        own = np.flatnonzero(found.classes == number)
        chosen = cv2.dnn.NMSBoxes(
            corner_and_size[own].tolist(), found.scores[own].tolist(), 0.0, MOST_OVERLAP
        )
        kept.append(own[np.asarray(chosen, int).ravel()])
    order = np.concatenate(kept) if kept else np.zeros(0, int)
    order = order[np.argsort(-found.scores[order], kind='stable')][:MOST_DETECTIONS]
    return found.only(order)


def pooled(first: Detections, second: Detections) -> Detections:
    """Return what two cameras found together, each object once."""
    return suppressed(
        Detections(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))
    )


def read_classes(text: str) -> list[str]:
    """Return class names from a file, one a line, or a list with commas; else DetectorError."""
    path = Path(text)
    try:
        lines = (path.read_text(encoding='utf-8').splitlines() if path.is_file()
                 else text.split(','))
    except (OSError, UnicodeDecodeError) as error:
        message = f'{path} cannot be read as a list of class names: {error}'
        raise DetectorError(explained(message, path)) from error
    names = [line.strip() for line in lines if line.strip()]
    # A single name is no list: the name of a file that is not there, or `-`.
    if len(names) == 1 and not path.is_file() and (path.suffix or path.is_dir()):
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise DetectorError(f'{path} {what}; expected a file of class names, one a line, or the '
                            'names with commas between them')
    if not names or names == ['-']:
        raise DetectorError(
            f'expected class names, one a line in a file or with commas between them, got {text!r}'
        )
    return names


def class_number(wanted: str, names: list[str] | None) -> int:
    """Return the number of a class by its name or number, or raise DetectorError."""
    if wanted.isdecimal():
        return int(wanted)
    if names is None and wanted == 'person':
        return 0  # as in COCO
    if names is None or wanted not in names:
        known = ', '.join(names) if names else 'none: give the names with --classes'
        raise DetectorError(f'no class is called {wanted!r}; known: {known}')
    return names.index(wanted)


def _session(path: Path, threads: int):
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DetectorError('a detector needs onnxruntime: pip install onnxruntime') from error
    if not path.is_file():
        raise DetectorError(f'{path} is not a file; expected a detector as an ONNX file')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings about how a file was exported help nobody here
    try:
        return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # as above
        if type(error).__name__ == 'InvalidProtobuf':
            raise DetectorError(explained(
                f'{path} is no whole ONNX file: it is cut off, damaged or of another kind; copy '
                'or export it again', path)) from error
        raise DetectorError(
            explained(f'onnxruntime {ort.__version__} cannot load {path}: {error}', path)
        ) from error


def _input_size(path: Path, session, size: Size | None) -> Size:
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or 'float' not in inputs[0].type:
        found = ', '.join(f'{one.name} {one.shape} {one.type}' for one in inputs)
        raise DetectorError(
            f'{path} takes {found}; expected one picture, 1 x 3 x height x width of float32'
        )
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        if size not in (None, (width, height)):
            raise DetectorError(f'{path} takes {width}x{height} pixels, not {size[0]}x{size[1]}')
        return width, height
    if size is None:
        raise DetectorError(
            f'{path} leaves the size of its input open ({shape}); export it with a fixed size'
        )
    return size


class DetectorError(DiffmfError):
    """This detector cannot be used."""


@dataclass(frozen=True)
class Placement:
    """Place of a picture in a detector's input: input = picture * scale + offset, by x and y."""

    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Return N x 4 boxes of the input in pixels of the picture."""
        return (boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)


@dataclass(frozen=True)
class Layout:
    """One family of detectors.

    place(picture, size) returns the input H x W x 3 float32 and where the picture lies in it;
    decode(output, size) takes the output without its batch axis and returns boxes in input pixels
    (N x 4) and scores (N x classes).
    """

    name: str
    place: Callable[[np.ndarray, Size], tuple[np.ndarray, Placement]]
    decode: Callable[[np.ndarray, Size], tuple[np.ndarray, np.ndarray]]


def choose(shape: tuple[int, ...], size: Size, *, classes: int | None = None) -> Layout:
    """Return the layout that an output shape (without batch axis) proves for a size of input.

    classes is the number of class names, where they are known. Raises DetectorError, with the
    shape, where no layout or more than one fits.
    """
    fitting = _fitting(shape, size, classes)
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if classes is not None and not fitting and (others := _fitting(shape, size, None)):
        raise _other_count(others, shape, classes)
    cells, plus_cells = _cell_count(size), _cell_count(size, (*STRIDES, 64))
    verdict = f'of several layouts: {", ".join(fitting)}' if fitting else 'of no known layout'
    raise DetectorError(
        f'the output {_text(shape)} of an input of {size[0]}x{size[1]} pixels is {verdict}; '
        f'expected, for C classes, 1 x {cells} x (5 + C) of yolox, 1 x {3 * cells} x (5 + C) of '
        f'yolov5, 1 x (4 + C) x {cells} of yolov8, or 1 x {cells} or {plus_cells} x '
        f'(C + {4 * NANODET_BINS}) of nanodet, without suppression of overlaps in the file; give '
        'the names of the classes or the layout, or export it that way'
    )


def _fitting(shape: tuple[int, ...], size: Size, classes: int | None) -> list[str]:
    """Return the names of the layouts that an output may have."""
    fitting = [name for name in LAYOUTS if len(shape) == 2 and _fits(name, shape, size, classes)]
    if len(fitting) > 1 and classes is None:  # a YOLOX of 107 classes looks like a NanoDet of 80
        of_coco = [name for name in fitting if _class_count(name, shape) == COCO_CLASSES]
        return of_coco or fitting
    return fitting


def _other_count(names: list[str], shape: tuple[int, ...], classes: int) -> DetectorError:
    counts = ' or '.join(f'{_class_count(name, shape)} of {name}' for name in names)
    return DetectorError(f'{classes} class names are given (--classes), but the output '
                         f'{_text(shape)} has classes for {counts}: name all of them')


def named(name: str, shape: tuple[int, ...], size: Size, *, classes: int | None = None) -> Layout:
    """Return the layout of this name, or raise DetectorError for a wrong name, output or number of
    class names."""
    if name not in LAYOUTS:
        raise DetectorError(f'expected a detector layout of {", ".join(LAYOUTS)}, got {name!r}')
    if len(shape) != 2 or not _fits(name, shape, size, None):
        raise DetectorError(
            f'the output {_text(shape)} of an input of {size[0]}x{size[1]} pixels is not that of '
            f'{name}'
        )
    if classes not in (None, _class_count(name, shape)):
        raise _other_count([name], shape, classes)
    return LAYOUTS[name]


def _text(shape: tuple[int, ...]) -> str:
    return ' x '.join(map(str, (1, *shape)))


def _fits(name: str, shape: tuple[int, ...], size: Size, classes: int | None) -> bool:
    cells = {
        'yolox': (_cell_count(size),),
        'yolov5': (3 * _cell_count(size),),
        'yolov8': (_cell_count(size),),
        'nanodet': (_cell_count(size), _cell_count(size, (*STRIDES, 64))),
    }[name]
    found = _class_count(name, shape)
    return shape[1 if name == 'yolov8' else 0] in cells and found >= 1 and classes in (None, found)


def _class_count(name: str, shape: tuple[int, ...]) -> int:
    if name == 'yolov8':
        return shape[0] - 4
    return shape[1] - (4 * NANODET_BINS if name == 'nanodet' else 5)


def _cell_count(size: Size, strides: tuple[int, ...] = STRIDES) -> int:
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def _cells(size: Size, strides: tuple[int, ...] = STRIDES) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of every cell (N x 2) and its stride (N x 1), by level, in row order."""
    grids, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: -(-size[1] // stride), : -(-size[0] // stride)]
        grids.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(steps).astype(np.float32)


def _corners(center: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.concatenate([center - size / 2, center + size / 2], axis=1)


def _yolox(output: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    cells, strides = _cells(size)
    sides = np.exp(np.minimum(output[:, 2:4], 20)) * strides
    return _corners((output[:, :2] + cells) * strides, sides), output[:, 4:5] * output[:, 5:]


def _yolov5(output: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    return _corners(output[:, :2], output[:, 2:4]), output[:, 4:5] * output[:, 5:]


def _yolov8(output: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    return _corners(output[:2].T, output[2:4].T), output[4:].T


def _nanodet(output: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Decode both versions: NanoDet-Plus has a fourth stride and points at corners of cells."""
    plus = len(output) != _cell_count(size)
    cells, strides = _cells(size, (*STRIDES, 64) if plus else STRIDES)
    points = (cells + (0 if plus else 0.5)) * strides
    classes = output.shape[1] - 4 * NANODET_BINS
    bins = output[:, classes:].reshape(-1, 4, NANODET_BINS)
    weights = np.exp(bins - bins.max(axis=2, keepdims=True))
    sides = (weights @ np.arange(NANODET_BINS) / weights.sum(axis=2)) * strides
    return np.concatenate([points - sides[:, :2], points + sides[:, 2:]], axis=1), output[
        :, :classes
    ]


def _letterbox(picture: np.ndarray, size: Size, *, centered: bool) -> tuple[np.ndarray, Placement]:
    height, width = picture.shape[:2]
    ratio = min(size[0] / width, size[1] / height)
    inner = max(1, int(width * ratio)), max(1, int(height * ratio))
    left, top = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2) if centered else (0, 0)
    canvas = np.full((size[1], size[0], 3), FILL, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        picture, inner, interpolation=cv2.INTER_LINEAR
    )
    return canvas.astype(np.float32), Placement((ratio, ratio), (left, top))


def _place_yolox(picture: np.ndarray, size: Size) -> tuple[np.ndarray, Placement]:
    """BGR, 0..255, in the top left corner."""
    return _letterbox(picture, size, centered=False)


def _place_yolo(picture: np.ndarray, size: Size) -> tuple[np.ndarray, Placement]:
    """RGB, 0..1, in the middle."""
    pixels, placement = _letterbox(picture, size, centered=True)
    return pixels[..., ::-1] / np.float32(255), placement


def _place_nanodet(picture: np.ndarray, size: Size) -> tuple[np.ndarray, Placement]:
    """BGR, normalized, stretched to the input."""
    pixels = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    height, width = picture.shape[:2]
    normal = (pixels - np.array(NANODET_MEAN, np.float32)) / np.array(NANODET_SCALE, np.float32)
    return normal, Placement((size[0] / width, size[1] / height), (0, 0))


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout('yolox', _place_yolox, _yolox),
        Layout('yolov5', _place_yolo, _yolov5),
        Layout('yolov8', _place_yolo, _yolov8),
        Layout('nanodet', _place_nanodet, _nanodet),
    )
}
