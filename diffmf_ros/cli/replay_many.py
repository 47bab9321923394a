# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay` of several bags, each a task of its own."""

from collections.abc import Sequence
from pathlib import Path

import typer

from ..core.settings import Settings
from ..io.bag_recovery import METADATA, require_bag_output
from ..io.paths import require_folder_name
from ..tools.batch.spreading import cores
from ..tools.batch.workers import BagOutcome, BagTask, Ledger, replayed_bags
from . import options
from .progress import progress, say_already


def replay_many(bags: Sequence[Path], out: Path, settings: Settings, *, topics: tuple[str, str],
                jobs: int, ray: str | None, overwrite: bool, json: Path | None,
                inputs: Sequence) -> bool:
    """Fuse every bag to a bag of the same name in the folder out.

    What an earlier run, perhaps an interrupted one, has made with the same settings is not made
    again.

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
    targets = _targets(bags, out)
    options.require_json(json, overwrite=overwrite, inputs=(*bags, *inputs))
    ledger = Ledger(out, settings, more=topics)
    tasks = [BagTask(bag, target, settings, topics, overwrite, tuple(inputs))
             for bag, target in zip(bags, targets, strict=True)
             if overwrite or not ledger.done(target / METADATA, *_files(bag))]
    for task in tasks:
        require_bag_output(task.out, overwrite=overwrite, inputs=(*bags, *inputs))
    say_already(len(bags) - len(tasks), len(bags))
    outcomes = _fused(tasks, ledger, jobs=jobs, ray=ray)
    options.write_json(json, {
        'out': str(out), 'already_there': len(bags) - len(tasks), 'bags': [
            {'bag': str(task.bag), 'out': str(task.out), 'error': outcome.error, **outcome.counts}
            for task, outcome in zip(tasks, outcomes, strict=True)]})
    failed = [_tell(task.out, outcome, json)
              for task, outcome in zip(tasks, outcomes, strict=True)]
    return any(failed)


def _targets(bags: Sequence[Path], out: Path) -> list[Path]:
    """Return the folder of each fused bag. Raises BadParameter where bags have equal names."""
    targets = [out / (bag.stem if bag.suffix in ('.db3', '.mcap') else bag.name) for bag in bags]
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise typer.BadParameter(f'several bags are called {sorted(twice)[0].name}: fuse them in '
                                 'several runs')
    return targets


def _fused(tasks: Sequence[BagTask], ledger: Ledger, *, jobs: int,
           ray: str | None) -> list[BagOutcome]:
    """Fuse the bags, and note each that is done: its metadata come last."""
    ledger.begin((task.out / METADATA, _files(task.bag)) for task in tasks)
    outcomes: list[BagOutcome] = []
    with progress('fusing bags', len(tasks)) as report:
        for outcome in replayed_bags(tasks, jobs=jobs or cores(), ray=ray):
            task = tasks[len(outcomes)]
            if not outcome.error:
                ledger.note(task.out / METADATA, *_files(task.bag))
            outcomes.append(outcome)
            report(len(outcomes))
    return outcomes


def _files(bag: Path) -> tuple[Path, ...]:
    """Return the files of a bag; bag itself where it is a file, or cannot be listed."""
    try:
        return tuple(sorted(bag.iterdir()))
    except OSError:
        return (bag,)


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
