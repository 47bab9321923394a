# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tasks.md, run for real, in the order of the page."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bad_inputs import furnish
from test_docs import FENCE, ROOT, printed_lines, quicker, text_of

from diffmf_ros.cli.main import run

pytestmark = pytest.mark.slow

PAGE = ROOT / 'docs' / 'tasks.md'
NETWORK_PAGE = ROOT / 'docs' / 'adding_a_network.md'
# Run by test_printed_commands.py.
NOT_PART_OF_RESULT = 'diffmf view', 'diffmf bench', 'diffmf doctor'
# What makes them quick: the networks have tests of their own.
QUICKER = {'fuse': ['--model', 'classical'], 'replay': ['--model', 'classical'],
           'align': ['--max-pairs', '2']}
QUICKER_NETWORK = {'bench': ['--frames', '1', '--size', '64x48']}
SMALL_TRAINING = {'model': 'tiny', 'preset': 'light', 'data': 'DIR', 'out': 'out/train/tiny',
                  'iterations': 1, 'batch': 1, 'crop': 32, 'warmup': 1}


def is_of_new_network(line: str) -> bool:
    """Whether a line is about the network that a page adds."""
    return 'tiny' in line


def is_of_cards(line: str) -> bool:
    """Whether a line of the tasks makes something and names no placeholder."""
    return (line.startswith('diffmf ') and not re.search(r'\b[A-Z]{3,}\b', line)
            and not line.startswith(NOT_PART_OF_RESULT) and not is_of_new_network(line))


def test_cards_work_in_turn(tmp_path, monkeypatch):
    """The cards work one after the other."""
    monkeypatch.chdir(tmp_path)

    for line in filter(is_of_cards, printed_lines(PAGE)):
        words = shlex.split(line, comments=True)[1:]
        assert run([*words, *QUICKER.get(words[0], [])]) == 0, words

    made = {path.name for path in tmp_path.iterdir()}
    assert {'pairs', 'drive', 'fused', 'align.yaml', 'aligned', 'hot', 'out'} <= made
    assert len(list((tmp_path / 'hot').glob('*.png'))) == 3


def test_page_network_in_two_places(tmp_path, domain):
    """The network of the page is added in two places, and then every line about it works."""
    pytest.importorskip('torch', reason='torch is not installed')
    pytest.importorskip('rclpy', reason='rclpy is not installed, over which bench publishes')
    # Given the package with the module, the line and the choice that the page asks for, and pairs
    shutil.copytree(ROOT / 'diffmf_ros', tmp_path / 'diffmf_ros')
    (tmp_path / 'diffmf_ros/models/tiny.py').write_text(FENCE.search(text_of(NETWORK_PAGE))[1])
    edit(tmp_path / 'diffmf_ros/models/__init__.py', "    'diffmf': {\n",
         "    'tiny': {'base': {}, 'light': {'width': 8}},\n    'diffmf': {\n")
    edit(tmp_path / 'diffmf_ros/core/settings.py', "choices=('diffmf', ",
         "choices=('tiny', 'diffmf', ")
    furnish(tmp_path)
    for name in ('vi', 'ir'):
        shutil.copytree(tmp_path / name, tmp_path / 'DIR' / name)
    recipe = yaml.safe_load(text_of(ROOT / 'config' / 'train' / 'diffmf_nano.yaml'))
    (tmp_path / 'tiny.yaml').write_text(yaml.safe_dump(recipe | SMALL_TRAINING))

    # when the lines of its page and of its card are run
    lines = dict.fromkeys(line for page in (NETWORK_PAGE, PAGE) for line in printed_lines(page)
                          if line.startswith('diffmf ') and is_of_new_network(line))
    said = {line: ended(line, tmp_path) for line in lines}

    # then all of them work, and it is in the table.
    assert len(said) >= 6
    table = said['diffmf models --model tiny']
    assert 'tiny' in table and 'light' in table


def ended(line: str, folder: Path) -> str:
    """Run a printed line with the package in a folder; return what it says."""
    words = shlex.split(line, comments=True)[1:]
    words = quicker(words, QUICKER_NETWORK.get(words[0], []))
    done = subprocess.run(
        [sys.executable, '-m', 'diffmf_ros.cli.main', *words],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(folder), 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def edit(path: Path, before: str, after: str) -> None:
    """Replace the first occurrence of a text in a file, which has to be there."""
    text = path.read_text(encoding='utf-8')
    assert before in text, path
    path.write_text(text.replace(before, after, 1), encoding='utf-8')
