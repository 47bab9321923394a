# SPDX-License-Identifier: Apache-2.0
"""A user's own object detector, an ONNX file, as a function of a picture."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...core.file_kinds import explained
from .layouts import DetectorError, Size, choose, named

LEAST_SCORE = 0.01  # for the average precision, which looks at unsure finds too
MOST_OVERLAP = 0.45  # intersection over union; the weaker of two boxes of one class goes
MOST_DETECTIONS = 300
AUTO = 'auto'


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
        layout: 'yolox', 'yolov5', 'yolov8' or 'nanodet' (see layouts); 'auto' takes what the
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
            self.layout = (
                choose(shape, self.size, classes=classes)
                if layout == AUTO
                else named(layout, shape, self.size)
            )
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
            raise DetectorError(
                f'{self.path}: onnxruntime raised {type(error).__name__}: {error}'
            ) from error
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
        lines = (
            path.read_text(encoding='utf-8').splitlines() if path.is_file() else text.split(',')
        )
    except (OSError, UnicodeDecodeError) as error:
        message = f'{path} cannot be read as a list of class names: {error}'
        raise DetectorError(explained(message, path)) from error
    names = [line.strip() for line in lines if line.strip()]
    # A single name is no list: the name of a file that is not there, or `-`.
    if not names or names == ['-'] or (
            len(names) == 1 and not path.is_file() and path.suffix):
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
        raise DetectorError(
            'a detector needs onnxruntime: pip install onnxruntime'
        ) from error
    if not path.is_file():
        raise DetectorError(f'{path} is not a file; expected a detector as an ONNX file')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings about how a file was exported help nobody here
    try:
        return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # as above
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
