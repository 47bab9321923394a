# SPDX-License-Identifier: Apache-2.0
"""A hint on a machine with more work than CPUs, where the threads of a network slow it down."""

import os

import typer

from ..core.settings import Settings
from ..tools.batch.spreading import cores

# Of the load average over the CPUs. At 13, one thread took a quarter of the time of two.
BUSY = 2.0


def hint_threads(settings: Settings, device: str) -> None:
    """Say on the standard error that one thread may be faster, where that is likely.

    Args:
        settings: those of the run; a number of threads that the user chose stays.
        device: where the network runs, as FusionPipeline.device says.
    """
    load, cpus = os.getloadavg()[0], cores()
    if settings.threads or settings.model == 'classical' or not device.startswith('cpu'):
        return
    if load > BUSY * cpus:
        typer.echo(f'note: {load:.0f} processes want the {cpus} CPUs of this machine, and the '
                   'threads of a network wait for each other then: --threads 1 can be several '
                   'times as fast', err=True)
