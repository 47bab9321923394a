# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/machines.md from docs/machines/*.json: python docs/machines_page.py"""

import sys
from pathlib import Path

from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.tools.bench.standard import markdown, read_report

PAGE = Path(__file__).with_name('machines.md')
FILES = Path(__file__).with_name('machines')
BEGIN, END = '<!-- begin of docs/machines_page.py -->', '<!-- end of docs/machines_page.py -->'


def with_tables(page: str) -> str:
    """Return the text of the page with the tables of all machines made new."""
    reports = [read_report(path) for path in sorted(FILES.glob('*.json'))]
    before, _, rest = page.partition(BEGIN)
    return f'{before}{BEGIN}\n\n{markdown(reports)}\n\n{END}{rest.partition(END)[2]}'


if __name__ == '__main__':
    try:
        page = with_tables(PAGE.read_text(encoding='utf-8'))
    except DiffmfError as error:
        sys.exit(f'error: {error}')
    PAGE.write_text(page, encoding='utf-8')
