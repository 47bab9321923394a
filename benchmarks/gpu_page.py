# SPDX-License-Identifier: Apache-2.0
"""What gpu_run.py has found, as one page of Markdown; bars beside the figures that have one."""

# figure: ({network: bar}, at most or at least); None stands for every network
BARS = {
    'p50_ms': ({'diffmf/base': 6.0, 'diffmf/light': 3.3}, '<='),
    'p99_over_p50': ({None: 1.15}, '<='),
    'eager_over_graph': ({None: 2.0}, '>='),
    'around_replay_ms': ({None: 0.4}, '<='),
    'allocations_per_frame': ({None: 0}, '<='),
    'peak_allocated_gib': ({'diffmf/base': 1.0, 'diffmf/light': 0.4}, '<='),
    'peak_reserved_gib': ({'diffmf/base': 1.0}, '<='),
    'within_a_level_of_float32': ({None: 0.999}, '>='),
    'large_over_small': ({None: 4.9}, '<='),
    'latency_p50_ms': ({None: 15.0}, '<='),
    'iterations_per_s': ({None: 60.0}, '>='),
}
START_BARS = {'cold': 15.0, 'warm': 5.0}


def page(state: dict) -> str:
    """Return the page of a state as in gpu.json."""
    machine = ', '.join(f'{key} {value}' for key, value in state['machine'].items())
    parts = state['parts']
    failed = [test for found in parts.values()
              for test in found.get('figures', {}).get('failed', ())]
    head = [f'# {state["machine"]["device"]}', '', machine, '']
    if 'in place of a GPU' in machine:
        head += ['**No figure here says anything about a GPU**: small images on a CPU, to try the '
                 'scripts.', '']
    if failed:
        head += ['**Failed tests**', '', *(f'* `{test}`' for test in failed), '']
    return '\n'.join([*head, *_first(parts), '## All parts', '', table(parts), ''])


def _first(parts: dict) -> list[str]:
    """The table that matters most: measured beside predicted."""
    rows = {name.partition(' ')[2]: found['figures'] for name, found in parts.items()
            if name.startswith('first ') and 'figures' in found}
    if not rows:
        return []
    head = ('network', 'runs on', 'p50, ms', 'replay, ms', 'predicted for an H200, ms',
            'first pair, s')
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for network, figures in rows.items():
        cells = (_number(figures.get(key)) for key in ('p50_ms', 'replay_ms', 'predicted_h200_ms'))
        lines.append(f'| {network} | {figures["runs_on"]} | {" | ".join(cells)} | '
                     f'{figures["first_pair_ms"] / 1e3:.1f} |')
    problems = dict.fromkeys(problem for figures in rows.values()
                             for problem in figures['problems'])
    return [*lines, '', *(f'ERROR: {problem}\n' for problem in problems)]


def table(parts: dict) -> str:
    """Return one line for every figure of parts, with its bar."""
    lines = []
    for name, found in parts.items():
        lines.append(f'* **{name}**: {found["ended"]}'
                     + (f', {found["wall_s"]} s' if 'wall_s' in found else ''))
        lines += [f'    {line}' for line in found.get('last_lines', ())]
        for figure, value in found.get('figures', {}).items():
            if not isinstance(value, (dict, list)) or figure == 'failed':
                lines.append(f'    {figure} {_number(value)}{_bar(name, figure, value)}')
    return '\n'.join(lines)


def _bar(part: str, figure: str, value) -> str:
    """The bar of a figure, if it has one, and whether it is met."""
    network = part.rpartition(' ')[2]
    bars, sense = BARS.get(figure, ({}, '<='))
    bar = bars.get(network, bars.get(None))
    if figure == 'start_s':
        bar = START_BARS.get(part.split()[1])
    if bar is None or not isinstance(value, (int, float)):
        return ''
    met = value <= bar if sense == '<=' else value >= bar
    return f' (bar {sense} {bar:g}: {"met" if met else "MISSED"})'


def _number(value) -> str:
    return f'{value:.4g}' if isinstance(value, float) else '' if value is None else str(value)
