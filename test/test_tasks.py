# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tasks.md, run for real, in the order of the page."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import FENCE, ROOT, printed_lines, text_of

from diffmf_ros.cli.main import run

pytestmark = pytest.mark.slow

PAGE = ROOT / 'docs' / 'tasks.md'
# Run by test_view_dds.py, test_benchmark.py, test_standard.py, test_doctor.py and below.
NOT_PART_OF_RESULT = 'diffmf view', 'diffmf bench', 'diffmf doctor', 'tiny'
# What makes them quick: the networks have tests of their own.
QUICKER = {'fuse': ['--model', 'classical'], 'replay': ['--model', 'classical']}


def commands() -> list[list[str]]:
    """The words of every command of the page that names no placeholder."""
    lines = [line for line in printed_lines(PAGE) if line.startswith('diffmf ')]
    return [shlex.split(line)[1:] for line in lines
            if not re.search(r'\b[A-Z]{3,}\b', line)
            and not any(part in line for part in NOT_PART_OF_RESULT)]


def test_cards_work_in_turn(tmp_path, monkeypatch):
    """The cards work one after the other."""
    monkeypatch.chdir(tmp_path)

    for words in commands():
        assert run([*words, *QUICKER.get(words[0], [])]) == 0, words

    made = {path.name for path in tmp_path.iterdir()}
    assert {'pairs', 'drive', 'fused', 'align.yaml', 'aligned', 'hot', 'out'} <= made
    assert len(list((tmp_path / 'hot').glob('*.png'))) == 3


def test_page_network_in_two_places(tmp_path):
    """The network of the page is added in two places."""
    pytest.importorskip('torch', reason='torch is not installed')
    # Given the package with the module, the line and the choice that the page asks for
    shutil.copytree(ROOT / 'diffmf_ros', tmp_path / 'diffmf_ros',
                    ignore=shutil.ignore_patterns('*.safetensors'))
    page = text_of(ROOT / 'docs' / 'adding_a_network.md')
    (tmp_path / 'diffmf_ros/models/tiny.py').write_text(FENCE.search(page)[1])
    edit(tmp_path / 'diffmf_ros/models/__init__.py', "    'diffmf': {\n",
         "    'tiny': {'base': {}, 'light': {'width': 8}},\n    'diffmf': {\n")
    edit(tmp_path / 'diffmf_ros/core/settings.py', "choices=('diffmf', ",
         "choices=('tiny', 'diffmf', ")

    # when its card's command is run
    done = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', 'models', '--model',
                           'tiny'], cwd=tmp_path,
                          env={'PYTHONPATH': str(tmp_path), 'PATH': '/usr/bin',
                               'OMP_NUM_THREADS': '1', 'HOME': str(tmp_path)}, capture_output=True,
                          text=True)

    # then it is in the table.
    assert done.returncode == 0, done.stderr
    assert 'tiny' in done.stdout and 'light' in done.stdout


def edit(path: Path, before: str, after: str) -> None:
    """Replace the first occurrence of a text in a file, which has to be there."""
    text = path.read_text(encoding='utf-8')
    assert before in text, path
    path.write_text(text.replace(before, after, 1), encoding='utf-8')
