# SPDX-License-Identifier: Apache-2.0
"""What of a long piece of work is done, so that a run that was stopped is taken up there."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ... import __version__
from ...core.settings import LIVE_ONLY, Settings, iter_specs
from ...inference.weights_header import weights_path
from ...io.writing import cannot_write

NAME = '.diffmf_fuse.jsonl'


class Ledger:
    """The file NAME in the folder of the results: what was begun, and what is done.

    Files are written whole or not at all, so one that was begun and is another one now is done,
    too: the process may have been killed before it could say so.
    """

    def __init__(self, folder: Path, settings: Settings, *, more: Sequence[str] = ()):
        """Read what is done in folder; a line that was cut by a power loss is passed over.

        Args:
            folder: of the results.
            settings: how they are made.
            more: what else they depend on, beside their inputs.
        """
        self._folder, self._path = folder, folder / NAME
        self._begun: dict[str, dict] = {}
        self._done: dict[str, dict] = {}
        with suppress(OSError):
            for line in self._path.read_text(encoding='utf-8').splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    (self._done if entry['done'] else self._begun)[entry['out']] = entry
        weights = weights_path(settings) if settings.model != 'classical' else ''
        # The number of threads changes the time alone.
        values = {
            item.name: item.value
            for item in iter_specs(settings)
            if item.name != 'threads' and not item.name.startswith(LIVE_ONLY)
        }
        self._basis = [__version__, values, _stat(weights), _stat(settings.alignment.file),
                       *more]

    def done(self, out: Path, *inputs: Path) -> bool:
        """Return whether out was made of these inputs, as they are now, in the same way as now."""
        name, now = self._name(out), _stat(out)
        entry = self._done.get(name) or self._begun.get(name)
        if not out.is_file() or entry is None or entry['of'] != self._of(inputs):
            return False
        return (entry['file'] == now) == entry['done']

    def begin(self, items: Iterable[tuple[Path, tuple[Path, ...]]]) -> None:
        """Say what is going to be made: files, and of which inputs each. Raises WriteError."""
        self._write(
            {'out': self._name(out), 'of': self._of(inputs), 'file': _stat(out), 'done': False}
            for out, inputs in items
        )

    def note(self, out: Path, *inputs: Path) -> None:
        """Say that out is made. Raises WriteError."""
        self._write(
            [{'out': self._name(out), 'of': self._of(inputs), 'file': _stat(out), 'done': True}]
        )

    def _write(self, entries: Iterable[dict]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open('a', encoding='utf-8') as file:
                file.write(
                    ''.join(f'\n{json.dumps(entry)}' for entry in entries)
                )  # after a line that was cut, too
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _name(self, out: Path) -> str:
        return str(out.relative_to(self._folder))

    def _of(self, inputs: tuple[Path, ...]) -> str:
        known = [self._basis, *(_stat(path) for path in inputs)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _stat(path: str | Path) -> list:
    """Return what tells one content of a file from another; of a missing one its name."""
    if not str(path):
        return []
    with suppress(OSError, ValueError):
        about = Path(path).stat()
        return [str(path), about.st_size, about.st_mtime_ns]
    return [str(path)]
