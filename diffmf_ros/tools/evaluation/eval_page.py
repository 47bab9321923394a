# SPDX-License-Identifier: Apache-2.0
"""Reports of an evaluation: as text, and as a page of HTML with pictures, in which the finds of a
detector are drawn."""

import base64
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...io.writing import cannot_write, is_stream, write_bytes, write_text
from ..bench.report import figure_class, save_figure
from .detection_scores import drawn
from .detector_trial import ABOUT, COLUMNS, RGB, THERMAL, Look
from .eval_files import EvaluationError, Images
from .evaluate import FLAT_THERMAL, Evaluation, Scores
from .scoring import HEADLINE, LITERATURE, METRICS, cells

CAPTION = ('More is better but for haze (levels, 0 is none), Nabf and flicker. MI in nats; VIF '
           'and SSIM summed over both sources. Means of target are over all targets. -: not '
           'defined for this image')
PADDING = 0, 1, 0, 0
GAP, EDGE = 2, 4  # between columns, and around a table with its names
LEAST_NAME = 14  # columns of a terminal; longer names take two lines
DECIMALS = {'AP40': 3, 'AP50': 3, 'day_again': 2}
EMBEDDED = 100  # images; more of them make a page that browsers load slowly, so they get a folder
QUALITY = 92
PICTURE = re.compile(r'\d{5,}_(RGB|thermal|fused)\.jpg')  # its name in that folder
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


def columns(evaluation: Evaluation, *, every: bool = True) -> tuple[str, ...]:
    """Return the names of the metrics, with flat thermal and flicker where they were measured.

    Without every: what a fused image is for, without the metrics of the literature.
    """
    return (*(METRICS if every else HEADLINE), *((FLAT_THERMAL,) if evaluation.flat_thermal else
            ()), *(('flicker',) if evaluation.flicker else ()))


def tables(evaluation: Evaluation, *, width: int, every: bool) -> Iterator[Table]:
    """Yield the metrics of every image, then the means of the method and of the baselines.

    Args:
        evaluation: what was found.
        width: of the terminal, in columns; each table fits.
        every: whether the metrics of the literature are there, too.
    """
    rows = list(_rows(evaluation))
    name_width = min(max((len(row.name) for row in rows), default=0) or LEAST_NAME,
                     max(LEAST_NAME, width // 6))
    blocks: list[list[str]] = [[]]
    left = width - name_width - EDGE
    for name in columns(evaluation, every=every):
        texts = (*name.split('_'), *(cells(row.scores, (name,))[0] for row in rows))
        cell = max(map(len, texts)) + GAP
        if blocks[-1] and cell > left:
            blocks.append([])
            left = width - name_width - EDGE
        blocks[-1].append(name)
        left -= cell
    for names in blocks:
        yield _table(evaluation.method, rows, names, name_width)


def below(evaluation: Evaluation, *, every: bool) -> list[str]:
    """Return the lines that belong under the tables."""
    return [CAPTION, targets_of(evaluation),
            *([] if every else [f'--all prints {len(LITERATURE)} metrics of the literature and '
                                  'salience, too'])]


def targets_of(evaluation: Evaluation) -> str:
    """Return what the targets of the scores are: boxes, hot blobs, or both."""
    boxed = sum(image.boxed for image in evaluation.images)
    count = len(evaluation.images)
    if not boxed:
        return 'Targets are the hot blobs of thermal'
    blobs = '; hot blobs of thermal in the others' if boxed < count else ''
    return f'Targets are the people of --boxes in {boxed} of {count} images{blobs}'


@dataclass(frozen=True)
class _Row:
    """A line of a table; section: it begins one, image: it is no mean."""

    name: str
    scores: Scores
    section: bool = False
    image: bool = False
    bold: bool = False


def _rows(evaluation: Evaluation) -> Iterator[_Row]:
    for image in evaluation.images:
        yield _Row(image.name, image.scores[evaluation.method], image=True)
    sets = evaluation.set_means()
    groups = {dataset: rows for dataset, rows in sets.items() if dataset != 'all'
              and len(sets) > 2} | {'mean': evaluation.means()}
    for about, rows in groups.items():
        for number, (way, scores) in enumerate(rows.items()):
            yield _Row(f'{about}, {way}', scores, section=number == 0,
                       bold=way == evaluation.method)


def _table(title: str, rows: Sequence[_Row], names: Sequence[str], name_width: int) -> Table:
    result = Table(title=title, box=SIMPLE_HEAD, padding=PADDING)
    result.add_column('image', width=name_width, overflow='fold')
    for name in names:
        result.add_column(name.replace('_', '\n'), justify='right')
    for row in rows:
        if row.image and not set(names) & set(METRICS):
            continue  # what is measured over several images has means alone
        if row.section:
            result.add_section()
        result.add_row(row.name, *cells(row.scores, tuple(names)),
                       style='bold' if row.bold else None)
    return result


def detector_table(evaluation: Evaluation) -> Table:
    """Return what the detector finds, by data set and method."""
    result = Table(title='an unchanged detector', caption=ABOUT, box=SIMPLE_HEAD, padding=PADDING)
    for name in ('data set', 'method', *COLUMNS):
        result.add_column(name.replace('_', '\n'),
                          justify='left' if name in ('data set', 'method') else 'right')
    for dataset, rows in shown_sets(evaluation.detector).items():
        result.add_section()
        for method, scores in rows.items():
            result.add_row(dataset, method, *detector_cells(scores),
                           style='bold' if method == evaluation.method else None)
    return result


def shown_sets(found: dict[str, dict]) -> dict[str, dict]:
    """Return every data set, and all together only where there are several."""
    return {dataset: rows for dataset, rows in found.items() if dataset != 'all' or len(found) > 2}


def detector_cells(scores: Scores) -> list[str]:
    """Return the scores of a detector as text, '-' for what is not defined."""
    return [f'{scores[name]:.{DECIMALS.get(name, 0)}f}' if math.isfinite(scores[name]) else '-'
            for name in COLUMNS]


def as_json(evaluation: Evaluation) -> str:
    """Return strict JSON: images, mean, baselines (their means), problems and what else was
    measured.

    sets has the means by data set where there are several, flicker those of a sequence, detector
    its scores by data set and method. What is not defined is null, what is infinite "inf".
    """
    names, mean = columns(evaluation), evaluation.means()
    rows = {method: _plain(scores, names) for method, scores in mean.items()}
    content = {
        'method': evaluation.method,
        'images': [{'name': image.name, **_plain(image.scores[evaluation.method], METRICS)}
                   for image in evaluation.images],
        'mean': rows.pop(evaluation.method, _plain({}, names)),
        'baselines': rows,
        'problems': [asdict(problem) for problem in evaluation.problems],
        'images_with_boxes': sum(image.boxed for image in evaluation.images),
    }
    sets = evaluation.set_means()
    if len(sets) > 2:
        content['sets'] = {dataset: {method: _plain(scores, METRICS) for method,
                                     scores in found.items()}
                           for dataset, found in sets.items()}
    if evaluation.flicker:
        content['flicker'] = {method: _plain(asdict(measured) | {'ratio': measured.ratio})
                              for method, measured in evaluation.flicker.items()}
    if evaluation.detector:
        content['detector'] = {dataset: {method: _plain(scores) for method,
                                         scores in found.items()}
                               for dataset, found in shown_sets(evaluation.detector).items()}
    return json.dumps(content, indent=1, allow_nan=False)


def _plain(values: Scores, names: tuple[str, ...] | None = None) -> dict[str, float | str | None]:
    found = ((name, values.get(name, math.nan)) for name in names or values)
    return {name: None if math.isnan(value) else value if math.isfinite(value) else f'{value}'
            for name, value in found}


def write_plot(path: Path, evaluation: Evaluation) -> None:
    """Draw the means of the method and of the baselines, a panel for each metric measured.

    Without a bar, but with its number or a dash, is what is infinite or was not measured. The
    format is that of the file's ending. Raises PlotError as figure_class, WriteError
    as save_figure.
    """
    ways = evaluation.means()
    values = {name: [scores.get(name, math.nan) for scores in ways.values()]
              for name in columns(evaluation, every=False)}
    names = [name for name, found in values.items() if not all(map(math.isnan, found))]
    figure = figure_class()(figsize=(2 + 1.6 * len(names), 1.5 + 0.3 * len(ways)),
                            layout='constrained')
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names):
        axes.set_title(name.replace('_', '\n'))
        bars = axes.barh(list(ways), [one if math.isfinite(one) else 0.0 for one in values[name]])
        axes.bar_label(bars, [cells({name: one}, (name,))[0] for one in values[name]], padding=2)
        axes.margins(x=0.5)
        for way, bar in zip(ways, bars):
            bar.set_alpha(1.0 if way == evaluation.method else 0.4)
    axes.invert_yaxis()  # all of them: they share it
    save_figure(figure, path)


class Page:
    """Collects scored images for a page.

    Their pictures are inside it, or of many images in a folder beside it, unless it goes to a
    device or a pipe.
    """

    def __init__(self, path: Path, *, count: int, method: str = '', class_number: int = 0,
                 overwrite: bool = True):
        """Start a page; the folder of its pictures is made, with overwrite also where there is
        one."""
        self._path = path
        self._sections: list[str] = []
        self._method, self._class_number = method, class_number
        folder = path.with_name(f'{path.stem}_files')
        self.folder = folder if count > EMBEDDED and not is_stream(path) else None
        self._older = folder if path.exists() and not is_stream(path) else None
        self._pictures: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.folder:
                self.folder.mkdir(exist_ok=overwrite)
        except FileExistsError as error:
            raise EvaluationError(f'{self.folder} exists already; --overwrite replaces its '
                                  f'pictures') from error
        except OSError as error:
            raise cannot_write(self.folder or path, error) from error

    def add(self, images: Images, fused: np.ndarray, scores: Scores,
            look: Look | None = None) -> None:
        """Add one image, the fused picture (H x W or H x W x 3 BGR uint8), its metrics and what a
        detector finds."""
        pictures = {'RGB': images.visible, 'thermal': images.ir, 'fused': fused}
        if look:
            ways = dict(zip(pictures, (RGB, THERMAL, self._method)))
            pictures = {kind: drawn(picture, look.found[ways[kind]], look.truth,
                                    wanted=self._class_number)
                        for kind, picture in pictures.items()}
        figures = ''.join(
            f'<figure><img loading="lazy" alt="{kind}" '
            f'src="{self._source(images.name, kind, pixels)}">'
            f'<figcaption>{kind}</figcaption></figure>' for kind, pixels in pictures.items())
        values = {name: scores[name] if math.isfinite(scores[name]) else None for name in METRICS}
        listed = ' '.join(f'{name} <b>{text}</b>' for name,
                          text in zip(METRICS, cells(scores, METRICS)))
        data = escape(json.dumps({'name': images.name, **values}, allow_nan=False))
        self._sections.append(f'<section data-scores="{data}"><h2>{escape(images.name)}</h2>'
                              f'<div class="pictures">{figures}</div><p>{listed}</p></section>')

    def write(self, evaluation: Evaluation) -> str:
        """Write the page and remove the pictures of the one that it replaces.

        Returns a sentence on the folder of those where it stays, because not all in it is surely
        of a page, else ''. Raises WriteError when the page cannot be written.
        """
        title = f'{evaluation.method}: {len(evaluation.images)} images'
        buttons = ' '.join(f'<button data-name="{name}">{name}</button>'
                           for name in ('name', *METRICS))
        text = TEMPLATE.format(title=escape(title), summary=_summary(evaluation),
                               caption=escape(f'{CAPTION}. {targets_of(evaluation)}'),
                               buttons=buttons,
                               sections='\n'.join(self._sections))
        write_text(self._path, text)
        return self._without_older()

    def _without_older(self) -> str:
        if self._older is None or not self._older.exists():
            return ''
        plain = self._older.is_dir() and not self._older.is_symlink()
        inside = list(self._older.iterdir()) if plain else []
        ours = bool(inside) and all(PICTURE.fullmatch(file.name) and file.is_file()
                                    for file in inside)
        if ours:
            for file in inside:
                if file.name not in self._pictures:
                    file.unlink()
            if not self.folder:
                self._older.rmdir()
        return '' if ours or self.folder else (
            f'{self._path} does not use {self._older}, which stays')

    def _source(self, name: str, kind: str, pixels: np.ndarray) -> str:
        jpeg = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        if self.folder is None:
            return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'
        file = self.folder / f'{len(self._sections):05d}_{kind}.jpg'
        write_bytes(file, jpeg)
        self._pictures.add(file.name)
        return f'{self.folder.name}/{file.name}'


def _summary(evaluation: Evaluation) -> str:
    names = columns(evaluation)
    head = ''.join(f'<th>{name}</th>' for name in ('mean', *names))
    rows = ''.join('<tr>'
                   + ''.join(f'<td>{escape(text)}</td>'
                             for text in (method, *cells(scores, names))) + '</tr>'
                   for method, scores in evaluation.means().items())
    wrong = ''.join(f'<li>{escape(f"{problem.file}: {problem.reason}")}</li>'
                    for problem in evaluation.problems)
    return f'<table><tr>{head}</tr>{rows}</table>' + _detector(evaluation) + (
        f'<p>{len(evaluation.problems)} not scored:</p><ul>{wrong}</ul>' if wrong else '')


def _detector(evaluation: Evaluation) -> str:
    if not evaluation.detector:
        return ''
    head = ''.join(f'<th>{name}</th>' for name in ('an unchanged detector', *COLUMNS))
    lines = [(f'{dataset}, {method}', *detector_cells(scores)) for dataset, methods in
             shown_sets(evaluation.detector).items() for method, scores in methods.items()]
    rows = ''.join('<tr>' + ''.join(f'<td>{escape(text)}</td>' for text in line) + '</tr>'
                   for line in lines)
    return (f'<p></p><table><tr>{head}</tr>{rows}</table><p>{escape(ABOUT)}. Boxes: objects '
            f'green, regions to ignore '
            'gray, detections orange, of other classes blue.</p>')
