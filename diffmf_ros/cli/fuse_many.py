# SPDX-License-Identifier: Apache-2.0
"""`diffmf fuse` of many pairs of files, and of two videos."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from ..core.frames import FusionResult
from ..inference.pipeline import FusionPipeline
from ..io.images import naming
from ..io.media import write_film
from ..io.paths import IMAGE_SUFFIXES, require_different, require_folder_name, require_outside
from ..io.writing import WriteError, is_input, require_ending, require_output
from ..tools.batch.films import Films, opened
from ..tools.batch.matching_files import matches
from ..tools.batch.spreading import cores
from ..tools.batch.workers import FileOutcome, Ledger, Task, fused_files
from . import options
from .progress import hint_threads, progress, say_already

FOLDER = Path('fused')
SHOWN = 5  # names in a message about many


def fuse_files(images: Sequence[Path], out: Path | None, asked, *, match: str | None,
               recursive: bool, jobs: int, ray: str | None) -> bool:
    """Fuse pairs of files into the folder out.

    Args:
        images: as `matches` takes them, with match and recursive.
        out: the folder to fill; it may have results of an earlier run. None: FOLDER, which then
            must have nothing else.
        asked: the Asked of the command.
        match: two patterns of names, or None.
        recursive: whether to look in the folders below.
        jobs: number of processes; 0: one for each core.
        ray: address of a Ray cluster, or None.

    Returns:
        Whether something failed.
    """
    found, alone = matches(images, names=match, recursive=recursive)
    named, out = out is not None, out or FOLDER
    require_folder_name(out, of='fused images', instead='-o NAME')
    if recursive:
        require_outside(out, images)
    tasks = [Task(pair, out / f'{pair.name}.png') for pair in found]
    _require_own(out, tasks, named=named)
    ledger = Ledger(out, asked.settings, more=['keep order'] * asked.keep_order)
    done = set() if asked.overwrite else {task for task in tasks
                                          if ledger.done(task.out, *task.inputs)}
    left = [task for task in tasks if task not in done]
    _require_outputs(left, out, asked, all_tasks=tasks)
    say_already(len(done), len(tasks))
    outcomes = _fused_pairs(left, asked, ledger, jobs=jobs, ray=ray)
    failed = [*alone, *(outcome.error for outcome in outcomes if outcome.error)]
    _tell(out, outcomes, failed, already=len(done), json=asked.json)
    return bool(failed)


def _fused_pairs(tasks: Sequence[Task], asked, ledger: Ledger, *, jobs: int,
                 ray: str | None) -> list[FileOutcome]:
    """Fuse the pairs, and note each that is done."""
    ledger.begin((task.out, task.inputs) for task in tasks)
    outcomes: list[FileOutcome] = []
    with progress('fusing', len(tasks)) as report:
        fused = fused_files(tasks, asked.settings, jobs=jobs or cores(),
                            overwrite=asked.overwrite, keep_order=asked.keep_order, ray=ray)
        for task, outcome in zip(tasks, fused, strict=True):
            if not outcomes and jobs == 1 and ray is None:
                hint_threads(asked.settings, outcome.by.rpartition(' on ')[2])
            outcomes.append(outcome)
            if not outcome.error:
                ledger.note(task.out, *task.inputs)
            report(len(outcomes))
    return outcomes


def _require_own(folder: Path, tasks: Sequence[Task], *, named: bool) -> None:
    """Say that a folder has other images, too. Raises WriteError where it was not named."""
    own = {task.out for task in tasks}
    others = sorted(path for path in folder.glob('[!.]*')
                    if path.suffix.lower() in IMAGE_SUFFIXES and path not in own)
    if not others:
        return
    text = f'{folder} has {len(others)} other images, such as {others[0]}'
    if not named:
        raise WriteError(f'{text}: choose another folder with -o, or -o {folder} to add to it')
    typer.echo(f'note: {text}, which stay', err=True)


def _require_outputs(tasks: Sequence[Task], folder: Path, asked, *,
                     all_tasks: Sequence[Task]) -> None:
    """Raise an error, before long work begins, unless every task may write its file."""
    require_output(folder / '.new', overwrite=True)
    there = [task.out for task in tasks if task.out.exists()]
    inputs = *asked.inputs, *(file for task in all_tasks for file in task.inputs)
    for path in there:
        if is_input(path, inputs):
            raise WriteError(f'{path} is read as an input, so it is not written to: choose '
                             'another --out')
    if there and not asked.overwrite:
        raise WriteError(f'{len(there)} of the {len(all_tasks)} files in {folder} exist already '
                         'and were made of something else or with other settings, such as '
                         f'{there[0]}; --overwrite replaces them')


def _tell(out: Path, outcomes: Sequence[FileOutcome], failed: Sequence[str], *, already: int,
          json: Path | None) -> None:
    """Say what became of many pairs."""
    for text, names in _said(outcomes):
        more = ' ...' if len(names) > SHOWN else ''
        typer.echo(f'{text} ({len(names)}: {", ".join(names[:SHOWN])}{more})', err=True)
    for text in failed:
        typer.echo(f'failed: {text}', err=True)
    modes = Counter(outcome.mode for outcome in outcomes if not outcome.error)
    by = outcomes[0].by if outcomes else ''
    options.write_json(json, {
        'out': str(out), 'already_there': already, 'modes': modes, 'by': by, 'failed': failed,
        'images': [{'out': str(outcome.task.out), 'mode': outcome.mode,
                    'note': outcome.note, 'warnings': outcome.warnings,
                    'error': outcome.error}
                   for outcome in outcomes]})
    made = f'{_counts(modes)} by {by}' if modes else 'nothing new'
    options.say(f'{out}: {made}; {already} there already, {len(failed)} failed', json=json)


def _said(outcomes: Sequence[FileOutcome]) -> Iterator[tuple[str, list[str]]]:
    """Yield each warning and note once, with the names of the pairs; a note as of the first."""
    found: dict[str, tuple[str, list[str]]] = {}
    for outcome in outcomes:
        rgb, thermal = map(str, outcome.task.inputs)
        for text in filter(None, (*(f'warning: {text}' for text in outcome.warnings),
                                  outcome.note)):
            kind = text.replace(rgb, 'RGB').replace(thermal, 'THERMAL')
            found.setdefault(kind, (text, []))[1].append(outcome.task.match.name)
    yield from found.values()


def fuse_films(rgb: Path, thermal: Path, out: Path, asked) -> bool:
    """Fuse two videos to one; return whether one of them is damaged."""
    require_different(rgb, thermal)
    require_ending(out, ('.mp4',), what='a video')
    require_output(out, overwrite=asked.overwrite, inputs=asked.inputs)
    films, pipeline = opened(rgb, thermal), FusionPipeline(asked.settings)
    hint_threads(asked.settings, pipeline.device)
    modes: Counter = Counter()
    warnings: dict = {}
    with progress('fusing', films.count) as report:
        results = _fused(films, pipeline, modes, warnings)
        for count in write_film(out, results, fps=films.rate_hz, overwrite=asked.overwrite):
            report(count)
    for text in (*(f'warning: {warning}' for warning in warnings), *films.notes,
                 *(f'failed: {problem}' for problem in films.problems)):
        typer.echo(text, err=True)
    by = f'{pipeline.description} on {pipeline.device}'
    options.write_json(asked.json, {
        'out': str(out), 'frames_per_s': films.rate_hz, 'modes': modes, 'by': by,
        'failed': films.problems, 'warnings': list(warnings)})
    options.say(f'{out}: {_counts(modes)} by {by}', json=asked.json)
    return bool(films.problems)


def _fused(films: Films, pipeline: FusionPipeline, modes: Counter,
           warnings: dict[str, None]) -> Iterator[FusionResult]:
    for pair in films.pairs():
        with naming(films.rgb, films.thermal):
            result = pipeline.fuse(pair)
        modes[result.mode.value] += 1
        warnings.update(dict.fromkeys(result.warnings))
        yield result


def _counts(modes: Counter) -> str:
    return ', '.join(f'{count} {mode}' for mode, count in modes.items())
