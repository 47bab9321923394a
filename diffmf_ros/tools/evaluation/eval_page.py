# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a page: RGB, thermal and fused side by side, sorted by any metric. Works without a network."""

import base64
import json
import math
from html import escape
from pathlib import Path

import cv2
import numpy as np

from ...io.writing import cannot_write, write_bytes, write_text
from .detector_trial import ABOUT, COLUMNS, RGB, THERMAL, Look
from .drawing import drawn
from .eval_files import EvaluationError, Images
from .eval_report import CAPTION, columns, detector_cells, shown_sets
from .evaluate import Evaluation, Scores
from .metric_names import METRICS, cells

EMBEDDED = 100  # images; more of them make a page that browsers load slowly, so they get a folder
QUALITY = 92
TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1em }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2em .5em; text-align: right; font-variant-numeric: tabular-nums }}
td:first-child, th:first-child {{ text-align: left }}
tr:nth-child(even) {{ background: #8882 }}
nav {{ position: sticky; top: 0; padding: .5em 0; background: canvas }}
section {{ margin: 1em 0; border-top: 1px solid #8888 }}
.pictures {{ display: flex; gap: .3em }}
figure {{ margin: 0; flex: 1 }}
img {{ width: 100% }}
b {{ color: #b50 }}
</style></head><body>
<h1>{title}</h1>
{summary}
<p>{caption}</p>
<nav>sort by {buttons}</nav>
<main>{sections}</main>
<script>
let last = '', sign = -1;
function sortBy(name) {{
  sign = name === last ? -sign : name === 'name' ? 1 : -1;
  last = name;
  const value = s => JSON.parse(s.dataset.scores)[name];
  const order = (a, b) => {{
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  }};
  document.querySelector('main').append(...[...document.querySelectorAll('section')].sort(order));
  for (const button of document.querySelectorAll('nav button')) {{
    const here = button.dataset.name === name;
    button.textContent = button.dataset.name + (here ? sign > 0 ? ' \\u25b2' : ' \\u25bc' : '');
  }}
}}
document.querySelectorAll('nav button').forEach(b => b.onclick = () => sortBy(b.dataset.name));
</script>
</body></html>
"""


class Page:
    """Collects scored images for a page; their pictures are inside it, or of many images in a folder beside it."""

    def __init__(self, path: Path, *, count: int, method: str = '', class_number: int = 0, overwrite: bool = True):
        """Start a page; the folder of its pictures is made, with overwrite also where there is one."""
        self._path, self._sections = path, []
        self._method, self._class_number = method, class_number
        self._folder = path.with_name(f'{path.stem}_files') if count > EMBEDDED else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._folder:
                self._folder.mkdir(exist_ok=overwrite)
        except FileExistsError as error:
            raise EvaluationError(f'{self._folder} exists already; --overwrite replaces its pictures') from error
        except OSError as error:
            raise cannot_write(self._folder or path, error) from error

    def add(self, images: Images, fused: np.ndarray, scores: Scores, look: Look | None = None) -> None:
        """Add one image, the fused picture (H x W or H x W x 3 BGR uint8), its metrics and what a detector finds."""
        pictures = {'RGB': images.visible, 'thermal': images.ir, 'fused': fused}
        if look:
            ways = dict(zip(pictures, (RGB, THERMAL, self._method)))
            pictures = {kind: drawn(picture, look.found[ways[kind]], look.truth, wanted=self._class_number)
                        for kind, picture in pictures.items()}
        figures = ''.join(
            f'<figure><img loading="lazy" alt="{kind}" src="{self._source(images.name, kind, pixels)}">'
            f'<figcaption>{kind}</figcaption></figure>' for kind, pixels in pictures.items())
        values = {name: scores[name] if math.isfinite(scores[name]) else None for name in METRICS}
        listed = ' '.join(f'{name} <b>{text}</b>' for name, text in zip(METRICS, cells(scores, METRICS)))
        data = escape(json.dumps({'name': images.name, **values}, allow_nan=False))
        self._sections.append(f'<section data-scores="{data}"><h2>{escape(images.name)}</h2>'
                              f'<div class="pictures">{figures}</div><p>{listed}</p></section>')

    def write(self, evaluation: Evaluation) -> None:
        """Write the page. Raises WriteError when that is not possible."""
        title = f'{evaluation.method}: {len(evaluation.images)} images'
        buttons = ' '.join(f'<button data-name="{name}">{name}</button>' for name in ('name', *METRICS))
        text = TEMPLATE.format(title=escape(title), summary=_summary(evaluation), caption=escape(CAPTION),
                               buttons=buttons, sections='\n'.join(self._sections))
        write_text(self._path, text)

    def _source(self, name: str, kind: str, pixels: np.ndarray) -> str:
        jpeg = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        if self._folder is None:
            return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'
        file = self._folder / f'{len(self._sections):05d}_{kind}.jpg'
        write_bytes(file, jpeg)
        return f'{self._folder.name}/{file.name}'


def _summary(evaluation: Evaluation) -> str:
    names = columns(evaluation)
    head = ''.join(f'<th>{name}</th>' for name in ('mean', *names))
    rows = ''.join('<tr>' + ''.join(f'<td>{escape(text)}</td>' for text in (method, *cells(scores, names))) + '</tr>'
                   for method, scores in evaluation.means().items())
    wrong = ''.join(f'<li>{escape(f"{problem.file}: {problem.reason}")}</li>' for problem in evaluation.problems)
    return f'<table><tr>{head}</tr>{rows}</table>' + _detector(evaluation) + (
        f'<p>{len(evaluation.problems)} not scored:</p><ul>{wrong}</ul>' if wrong else '')


def _detector(evaluation: Evaluation) -> str:
    if not evaluation.detector:
        return ''
    head = ''.join(f'<th>{name}</th>' for name in ('an unchanged detector', *COLUMNS))
    lines = [(f'{dataset}, {method}', *detector_cells(scores)) for dataset, methods in
             shown_sets(evaluation.detector).items() for method, scores in methods.items()]
    rows = ''.join('<tr>' + ''.join(f'<td>{escape(text)}</td>' for text in line) + '</tr>' for line in lines)
    return (f'<p></p><table><tr>{head}</tr>{rows}</table><p>{escape(ABOUT)}. Boxes: objects green, regions to ignore '
            'gray, detections orange, of other classes blue.</p>')
