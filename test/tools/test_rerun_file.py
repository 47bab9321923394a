# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay --rrd`: a recording that Rerun's own tools read."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from diffmf_ros.cli.main import run
from diffmf_ros.core.settings import DEFAULTS

CHUNK = re.compile(r'Chunk\S* with (\d+) rows .*?- (/\w+) ')


def test_missing_rerun_names_install(small_bag, tmp_path, monkeypatch, capsys):
    """Without rerun the error says what to install."""
    monkeypatch.setitem(sys.modules, 'rerun', None)

    code = run(['replay', str(small_bag), str(tmp_path / 'out'), '--model', 'classical',
                '--rrd', str(tmp_path / 'x.rrd')])

    assert code == 2 and 'pip install rerun-sdk' in capsys.readouterr().err.replace('\n', '')
    assert not (tmp_path / 'x.rrd').exists() and not (tmp_path / 'out').exists()


def test_every_pair_is_in_the_recording(small_bag, tmp_path):
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')

    assert run(['replay', str(small_bag), str(tmp_path / 'out'), '--model', 'classical',
                '--rrd', str(tmp_path / 'x.rrd')]) == 0

    printed = subprocess.run(
        [sys.executable, '-m', 'rerun', 'rrd', 'print', str(tmp_path / 'x.rrd')],
        env={**os.environ, 'HOME': str(tmp_path)}, capture_output=True, text=True,
        check=True).stdout
    rows = Counter()
    for count, entity in CHUNK.findall(printed):
        rows[entity] += int(count)
    assert {entity: rows[entity] for entity in ('/rgb', '/thermal', '/fused', '/offset_ms',
                                                '/mode')} == dict.fromkeys(
        ('/rgb', '/thermal', '/fused', '/offset_ms', '/mode'), 30)


def test_recording_goes_to_a_device():
    """A recording to a device, which has no size, ends without an error."""
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    from diffmf_ros.tools.replay_outputs import rerun_recording

    with rerun_recording(Path(os.devnull), DEFAULTS.thermal, overwrite=False) as recording:
        assert recording
