# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench --plan`: what a pair and a training step would launch, move and take on a GPU."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

CAPTION = ('predicted: kernels of the captured graph at the rates measured on an H200, or at '
           'those of data sheets (*), where nothing was measured; floor: layers that read and '
           'write once (tools/bench/roofs.py); x fused: bytes over those; of a step: kernels '
           'launched one by one')
LARGEST_KINDS = 6


def plans_of(configurations: list, report: Callable[[str], None]) -> list:
    """Return the plans of a pair of each configuration, and of a training step of each network."""
    from ..tools.bench.plan import plan_pair, plan_step

    plans = []
    for configuration in configurations:
        settings = configuration.settings
        if settings.model == 'classical':
            continue
        report(f'{configuration.name}: a pair')
        precision = 'float16' if settings.precision == 'auto' else settings.precision
        backend = 'triton' if settings.scan_backend == 'auto' else settings.scan_backend
        plans.append(plan_pair(settings.model, settings.network_preset, configuration.size,
                               scale=settings.scale, precision=precision, scan_backend=backend))
    for network in dict.fromkeys(plan.network for plan in plans):
        report(f'{network}: a training step (some 20 s for the largest)')
        plans.append(plan_step(*network.split()))
    return plans


def show(console: Console, plans: list) -> None:
    """Print the plans: a line each, and the kinds of kernels that move most."""
    from ..tools.bench.plan_devices import GPUS

    names = [gpu.name if gpu.measured else f'{gpu.name}*' for gpu in GPUS]
    table = Table('network', 'of', 'kernels', 'aim', 'read, GB', 'written, GB', 'x fused',
                  'exp, G', *(f'{name}, ms' for name in names), title='predicted / floor',
                  caption=CAPTION)
    for plan in plans:
        moved = plan.bytes_read, plan.bytes_written
        fused = f'{sum(moved) / plan.fused_bytes:.1f}' if plan.fused_bytes else ''
        times = (_time(plan.times_ms(gpu)) for gpu in GPUS)
        table.add_row(plan.network, plan.of, f'{len(plan.kernels)}', str(plan.goal or ''),
                      *(f'{part / 1e9:.2f}' for part in moved), fused,
                      f'{plan.exponentials / 1e9:.2f}', *times)
    console.print(table)
    for plan in plans:
        kinds = (f'{name} {launches} ({moved / 1e9:.2f})'
                 for name, launches, moved in plan.by_kind()[:LARGEST_KINDS])
        console.print(f'{plan.network}, {plan.of}: launches (GB) of {", ".join(kinds)}',
                      highlight=False, markup=False)


def _time(times: dict) -> str:
    """Predicted milliseconds over the floor; of a step where the cost of launches is known."""
    if times['floor_ms'] is None:
        return f'{times["launched_singly_ms"]:.0f}' if times['launched_singly_ms'] else ''
    return f'{times["predicted_ms"]:.1f} / {times["floor_ms"]:.1f}'
