# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay` of several bags, each a task of its own."""

from collections.abc import Sequence
from pathlib import Path

import typer

from ..core.settings import Settings
from ..io.bag_recovery import require_bag_output
from ..io.paths import require_folder_name
from ..tools.batch.spreading import cores
from ..tools.batch.workers import BagOutcome, BagTask, replayed_bags
from . import options
from .progress import progress


def replay_many(bags: Sequence[Path], out: Path, settings: Settings, *, topics: tuple[str, str],
                jobs: int, ray: str | None, overwrite: bool, json: Path | None,
                inputs: Sequence) -> bool:
    """Fuse every bag to a bag of the same name in the folder out.

    Args:
        bags: the recordings.
        out: the folder that gets a bag for each.
        settings: how to fuse.
        topics: names of the RGB and the thermal topic.
        jobs: number of processes; 0: one for each core.
        ray: address of a Ray cluster, or None.
        overwrite: whether bags that exist are replaced.
        json: file of --json, or None.
        inputs: files that must not be written to, besides the bags.

    Returns:
        Whether something failed.
    """
    require_folder_name(out, of='a bag of each')
    targets = [out / (bag.stem if bag.suffix in ('.db3', '.mcap') else bag.name) for bag in bags]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise typer.BadParameter(f'several bags are called {sorted(twice)[0].name}: fuse them in '
                                 'several runs')
    for target in targets:
        require_bag_output(target, overwrite=overwrite, inputs=(*bags, *inputs))
    options.require_json(json, overwrite=overwrite, inputs=(*bags, *inputs))
    tasks = [BagTask(bag, target, settings, topics, overwrite, tuple(inputs))
             for bag, target in zip(bags, targets, strict=True)]
    outcomes = []
    with progress('fusing bags', len(tasks)) as report:
        for outcome in replayed_bags(tasks, jobs=jobs or cores(), ray=ray):
            outcomes.append(outcome)
            report(len(outcomes))
    options.write_json(json, {'out': str(out), 'bags': [
        {'bag': str(task.bag), 'out': str(task.out), 'error': outcome.error, **outcome.counts}
        for task, outcome in zip(tasks, outcomes, strict=True)]})
    failed = [_tell(*item, json) for item in zip(targets, outcomes, strict=True)]
    return any(failed)


def _tell(target: Path, outcome: BagOutcome, json: Path | None) -> bool:
    """Say what became of a bag; return whether some of it could not be used."""
    if outcome.error:
        typer.echo(f'failed: {outcome.error}', err=True)
        return True
    counts = outcome.counts
    modes = ', '.join(f'{count} {mode}' for mode, count in counts['modes'].items())
    options.say(f'{target}: {counts["frames"]} frames, {counts["pairs"]} pairs, {modes}',
                json=json)
    for reason, count in counts['dropped'].items():
        why = counts['reasons'].get(reason, reason)
        options.say(f'left out: {count} {reason}: {why}', json=json)
    return counts['refused'] > 0
