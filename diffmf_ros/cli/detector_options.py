# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that run a user's own detector."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

Detector = Annotated[
    Path | None,
    typer.Option(help='your own detector, an ONNX file, for each camera and the fused image'),
]
DetectorLayout = Annotated[
    str, typer.Option(help='what its output means: auto | yolox | yolov5 | yolov8 | nanodet')
]
DetectClass = Annotated[str, typer.Option(help='name or number of the class to look for')]
Classes = Annotated[
    str | None,
    typer.Option(help='names of its classes: a file, one a line, or a list with commas'),
]


class Chosen(NamedTuple):
    """A detector and the number of the class to look for."""

    detector: object
    class_number: int


def detector_from(
    path: Path | None, *, layout: str, wanted: str, classes: str | None
) -> Chosen | None:
    """Return the detector that the options name, or None without one.

    Raises:
        DetectorError: a file, layout or class that cannot be used.
    """
    if path is None:
        return None
    from ..tools.evaluation.detector import Detector, class_number, read_classes
    from ..tools.evaluation.layouts import DetectorError

    names = read_classes(classes) if classes else None
    detector = Detector(path, layout=layout, classes=len(names) if names else None)
    number = class_number(wanted, names)
    if number >= detector.class_count:
        raise DetectorError(
            f'{path} has {detector.class_count} classes, from 0 on; there is no class {number}'
        )
    return Chosen(detector, number)
