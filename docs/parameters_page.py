# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/parameters.md from core/settings.py: python docs/parameters_page.py"""

from itertools import groupby
from pathlib import Path

from diffmf_ros.core.parameter_spec import ParameterSpec
from diffmf_ros.core.settings import DEFAULTS, iter_specs

PAGE = Path(__file__).with_name('parameters.md')
BEGIN, END = '<!-- begin of docs/parameters_page.py -->', '<!-- end of docs/parameters_page.py -->'
GROUPS = {
    '': 'Network and node',
    'input': 'How images arrive',
    'sync': 'Pairing in time',
    'thermal': 'Gray levels of thermal images',
    'alignment': 'Alignment',
    'health': 'When a camera or the network fails',
    'output': 'The fused image',
    'qos': 'Quality of service of the subscriptions',
    'realtime': 'Scheduling and memory',
}


def tables() -> str:
    """Return the tables of all settings, one per group.

    Raises KeyError for a group without a title.
    """
    parts = []
    specs = iter_specs(DEFAULTS)
    for group, items in groupby(specs, key=lambda item: item.name.rpartition('.')[0]):
        rows = [f'| `{item.name}` | `{shown(item.value)}` | {meaning(item)} |' for item in items]
        heading = f'## {GROUPS[group]}', '', '| parameter | default | |', '|---|---|---|'
        parts.append('\n'.join((*heading, *rows)))
    return '\n\n'.join(parts)


def shown(value) -> str:
    """Return a default as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value) if value != '' else "''"


def meaning(item: ParameterSpec) -> str:
    """Return the description with the choices, or the range."""
    if item.choices:
        return f'{item.description} ({", ".join(item.choices)})'
    if item.low is None:
        return item.description
    return f'{item.description} ({item.low:.10g} to {item.high:.10g})'


def with_tables(page: str) -> str:
    """Return the text of the page with its tables made new."""
    before, _, rest = page.partition(BEGIN)
    return f'{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}'


if __name__ == '__main__':
    PAGE.write_text(with_tables(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
