# SPDX-License-Identifier: Apache-2.0
"""Fuzzing that follows what code an input reaches, with atheris: `make fuzz-guided`.

    python -m fuzz.guided SECONDS [NAME ...]

Each target of targets.py is fuzzed for so long, from the inputs in corpus.json on; afterwards the
fewest that reach as much are kept there. test_fuzz.py tries all that are kept.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

KEPT = Path(__file__).with_name('corpus.json')


def kept() -> dict[str, list[bytes]]:
    """Return the inputs that are kept, by target: what hypothesis makes a case of."""
    return {name: [b64decode(text) for text in texts]
            for name, texts in json.loads(KEPT.read_text()).items()}


def fuzz_one(name: str, options: list[str]) -> None:
    """Hand this process over to libFuzzer, which ends it: with 77 and the input at a failure."""
    import atheris
    with atheris.instrument_imports(include=['diffmf_ros']):
        from .test_fuzz import trial

    # -merge starts itself again, through a shell
    itself = shlex.join([sys.executable, '-m', 'fuzz.guided', '--one', name])
    atheris.Setup([itself, *options], trial(name, 1)[0].hypothesis.fuzz_one_input)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, folder: Path) -> list[bytes]:
    """Fuzz a target in a process of its own; return the fewest inputs that reach as much.

    Raises CalledProcessError where an input made it fail; libFuzzer has shown it.
    """
    found, fewest = folder / 'found', folder / 'fewest'
    for path in (found, fewest):
        path.mkdir(parents=True)
    for number, content in enumerate(kept().get(name, [])):
        (found / f'kept{number}').write_bytes(content)
    for options in ([found, f'-max_total_time={seconds}', '-len_control=0', '-max_len=2048',
                     f'-artifact_prefix={folder}/', '-print_final_stats=1'],
                    ['-merge=1', fewest, found]):
        subprocess.run([sys.executable, '-m', 'fuzz.guided', '--one', name, *map(str, options)],
                       check=True)
    return sorted(path.read_bytes() for path in fewest.iterdir())


def main() -> None:
    """Fuzz the targets that are named, or all."""
    if sys.argv[1] == '--one':
        fuzz_one(sys.argv[2], sys.argv[3:])
    from .targets import TARGETS  # not before fuzz_one, which imports the project by itself
    corpus = kept()
    for name in sys.argv[2:] or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            corpus[name] = fuzz(name, int(sys.argv[1]), Path(folder))
        texts = {name: [b64encode(content).decode() for content in contents]
                 for name, contents in corpus.items()}
        KEPT.write_text(json.dumps(texts, indent=0) + '\n')


if __name__ == '__main__':
    main()
