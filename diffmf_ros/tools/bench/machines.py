# SPDX-License-Identifier: Apache-2.0
"""Files of `diffmf bench --standard` as rows: on the screen, a page, docs/machines.md."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from ...core.frames import DiffmfError
from .standard import FORMAT

COLUMNS = (
    'fuses with',
    'pairs sent, Hz',
    'images, Hz (least to most)',
    'latency p50 / p99, ms',
    'left out, %',
    'cores of the node',
    'cores of others',
    'first image, s',
    'memory, MB',
)
CAPTION = (
    '640x480, two cameras, the installed node over DDS; latency from the publishing of a pair to '
    'the receipt '
    'of its image; left out: pairs that a newer one overtook; cores of others: what else the '
    'machine did meanwhile'
)
TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>diffmf_ros on {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1em; max-width: 70em }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1em 0 }}
td, th {{ padding: .3em .6em; text-align: right; font-variant-numeric: tabular-nums;
  font-weight: normal }}
td:first-child, th:first-child {{ text-align: left }}
tr:nth-child(even) {{ background: #8882 }}
</style></head><body>
<h1>diffmf_ros on {title}</h1>
<p>{about}</p>
{table}
<p>{caption}.</p>
{all}
</body></html>
"""


def read_report(path: Path) -> dict:
    """Return the content of a file that `diffmf bench --standard --json` has written.

    Raises:
        DiffmfError: It is no such file.
    """
    try:
        report = json.loads(path.read_text(encoding='utf-8'))
        rows(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffmfError(f'{path} is no file of `diffmf bench --standard`: {error!r}') from error
    return report


def rows(report: Mapping) -> list[tuple[str, ...]]:
    """Return the cells of COLUMNS for each result of a report.

    Raises:
        ValueError: It has another format.
    """
    if report['format'] != FORMAT:
        raise ValueError(f'expected {FORMAT}, got {report["format"]}')
    return [_row(result) for result in report['results']]


def title(report: Mapping) -> str:
    """Return what the machine is, in a few words."""
    host = report['host']
    board = f' ({host["board"]})' if host['board'] else ''
    device = '' if host['device'] == 'cpu' else f', {host["device"]}'
    return f'{host["cores"]} cores of {host["cpu"]}{board}{device}'


def about(report: Mapping) -> str:
    """Return the rest of what numbers depend on: system, memory, versions, day."""
    host = report['host']
    versions = ', '.join(f'{name} {number}' for name, number in host['versions'].items())
    return (
        f'{host["os"]}, {host["memory_gb"]:.0f} GB, '
        f'{", ".join(host["extensions"]) or "no extensions"}; '
        f'diffmf_ros {report["diffmf_ros"]}, {versions}; measured {report["date"]}'
    )


def markdown(reports: Iterable[Mapping]) -> str:
    """Return a section with a table for each report."""
    sections = []
    for report in reports:
        lines = [
            '| ' + ' | '.join(cells) + ' |'
            for cells in (COLUMNS, ('---',) * len(COLUMNS), *rows(report))
        ]
        sections.append('\n'.join((f'## {title(report)}', '', f'{about(report)}.', '', *lines)))
    return '\n\n'.join(sections)


def page(report: Mapping) -> str:
    """Return a page about one machine, with every metric; it loads nothing."""
    names = list(report['results'][0]['metrics'])
    metrics = [
        (name, *(f'{result["metrics"][name]:g}' for result in report['results'])) for name in names
    ]
    heads = (
        'metric',
        *(f'{result["model"]}, {result["rate_hz"]:g} Hz' for result in report['results']),
    )
    return TEMPLATE.format(
        title=escape(title(report)),
        about=escape(about(report)),
        caption=escape(CAPTION),
        table=_html(COLUMNS, rows(report)),
        all=_html(heads, metrics),
    )


def _row(result: Mapping) -> tuple[str, ...]:
    metrics = result['metrics']
    return (
        f'`{result["model"]}`',
        f'{metrics["MEAN_PLAYBACK_FRAME_RATE"]:.1f}',
        '{MEAN_THROUGHPUT:.1f} ({MIN_THROUGHPUT:.1f} to {MAX_THROUGHPUT:.1f})'.format(**metrics),
        '{P50_LATENCY:.0f} / {P99_LATENCY:.0f}'.format(**metrics),
        f'{100 * metrics["NUM_MISSED_FRAMES"] / metrics["NUM_FRAMES_SENT"]:.0f}',
        f'{metrics["MEAN_CPU_CORES"]:.2f}',
        f'{metrics["OTHER_CPU_CORES"]:.2f}',
        f'{result["first_image_s"]:.1f}',
        f'{result["peak_memory_mb"]:.0f}',
    )


def _html(heads: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    lines = [f'<tr>{"".join(f"<th>{escape(head)}</th>" for head in heads)}</tr>']
    lines += [f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>' for row in cells]
    return '<table>\n' + '\n'.join(lines).replace('`', '') + '\n</table>'
