# SPDX-License-Identifier: Apache-2.0
"""The scripts that measure on a rented GPU.

What is cut off, resumed, counted and packed, without a GPU.
"""

import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('torch', reason='torch is not installed')
sys.path.append(str(Path(__file__).parents[3] / 'benchmarks'))

import gpu_page  # noqa: E402
import gpu_run  # noqa: E402
import offline_pack  # noqa: E402


def python(code, *, name='first a/net', limit_s=20.0, **about):
    """A part that runs Python code."""
    return gpu_run.Part(name, ('-c', code), limit_s, **about)


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    """Return a function that starts a run in one folder, with a CPU in place of the GPU."""
    monkeypatch.setattr(gpu_run, 'machine', lambda device: {'device': 'a GPU', 'code': '1'})

    def make(minutes=1.0, **changes):
        options = {'out': tmp_path / 'gpu', 'minutes': minutes, 'device': 'cpu', 'data': None,
                   'recipe': 'x', 'only': None, 'training_minutes': 4.0}
        return gpu_run.Run(SimpleNamespace(**options | changes))
    return make


FIGURES = {'p50_ms': 4.0, 'runs_on': 'cuda float16', 'first_pair_ms': 2000.0, 'problems': [],
           'replay_ms': 3.5, 'predicted_h200_ms': 3.7}
WRITE = f"import sys, json; open(sys.argv[1], 'w').write(json.dumps({FIGURES}))"


def test_part_runs_once_figures_kept(new_run, tmp_path):
    """A part is done once and its figures are kept."""
    part = gpu_run.Part('first diffmf/light', ('-c', WRITE, '{json}'))
    new_run().do(part)
    # when everything starts again, it is not run
    again = new_run()
    again.do(gpu_run.Part('first diffmf/light', ('-c', 'raise SystemExit(1)')))
    # then the figures are there, and the page compares them with the bar and the prediction
    assert again.state['parts']['first diffmf/light']['figures'] == FIGURES
    text = (tmp_path / 'gpu' / 'gpu.md').read_text()
    assert '| diffmf/light | cuda float16 | 4 | 3.5 | 3.7 | 2.0 |' in text
    assert 'p50_ms 4 (bar <= 3.3: MISSED)' in text


def test_other_code_starts_anew(new_run, monkeypatch, tmp_path):
    new_run().do(python('pass'))
    monkeypatch.setattr(gpu_run, 'machine', lambda device: {'device': 'a GPU', 'code': '2'})
    assert new_run().state['parts'] == {}
    assert len(list((tmp_path / 'gpu').glob('gpu.*.json'))) == 1  # of before


def test_slow_part_is_cut_and_retried(new_run):
    """A part that takes too long is cut off and tried again."""
    slow = python('import time; print("began", flush=True); time.sleep(60)', limit_s=1.5)
    run = new_run()
    run.do(slow)
    found = run.state['parts'][slow.name]
    assert found['ended'] == 'cut off' and found['last_lines'] == ['began'] and found[
        'wall_s'] < 20
    run.do(python('pass'))
    assert run.state['parts'][slow.name]['ended'] == 'done'


def test_parts_leave_time_for_training(new_run):
    assert new_run(10.0).kept_s == 0 and new_run(10.0, data='x', only=['first']).kept_s == 0
    run = new_run(4.01, data='x')
    run.do(python('import time; time.sleep(20)'))
    assert run.kept_s == 240 and run.state['parts']['first a/net']['ended'] == 'cut off'


def test_killed_script_leaves_no_part(tmp_path):
    code = ('import gpu_run; from pathlib import Path; gpu_run.run(gpu_run.Part("a", ("-c", '
            '"import os, time; print(os.getpid(), flush=True); time.sleep(60)"), 60), '
            'Path("figures"), Path("log"), 60)')
    script = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, env={
        **os.environ, 'PYTHONPATH': str(Path(gpu_run.__file__).parent)})
    log, ends = tmp_path / 'log', time.monotonic() + 30
    while not (log.exists() and log.read_text()) and time.monotonic() < ends:
        time.sleep(0.05)
    part = Path('/proc') / log.read_text().strip()
    assert part.exists()
    script.kill()
    script.wait()
    while part.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    assert not part.exists()


def test_a_failure_keeps_its_last_lines(new_run):
    run = new_run()
    run.do(python('raise SystemExit("no kernel image")'))
    found = run.state['parts']['first a/net']
    assert found['ended'] == 'exit code 1' and found['last_lines'] == ['no kernel image']


def test_stand_in_skips_gpu_parts(new_run):
    """What needs a GPU is passed over by a stand in."""
    run = new_run()
    run.do(python('raise SystemExit(1)', needs_gpu=True))
    assert run.state['parts']['first a/net'] == {'ended': 'passed over', 'why': 'needs a GPU'}


def test_failed_tests_are_named(new_run, tmp_path, capsys):
    """Failed tests are named at once and on the page."""
    lines = ['test/test_a.py::test_one PASSED [ 33%]', 'test/test_a.py::test_two FAILED [ 66%]',
             'test/test_a.py::test_three SKIPPED (no) [100%]',
             'FAILED test/test_a.py::test_two - assert']
    run = new_run()
    run.do(python(f'print({chr(10).join(lines)!r}); raise SystemExit(1)', name='tests a'))
    assert run.state['parts']['tests a']['figures'] == {
        'passed': 1, 'skipped': 1, 'failed': ['test/test_a.py::test_two']}
    assert 'test/test_a.py::test_two FAILED' in capsys.readouterr().out
    assert '* `test/test_a.py::test_two`' in (tmp_path / 'gpu' / 'gpu.md').read_text()


def test_the_order_is_that_of_worth(tmp_path):
    options = SimpleNamespace(device='cuda', mamba_ssm=None)
    names = [part.name for part in gpu_run.parts(options, tmp_path)]
    assert names[:3] == ['first diffmf/nano', 'first diffmf/light', 'first diffmf/base']
    assert len(names) == len(set(names))
    assert {'tests triton cases', 'tests fused gradients'} < set(names)
    assert all(part.limit_s <= 90 for part in gpu_run.parts(options, tmp_path))
    assert all(part.limit_s <= 60 for part in gpu_run.parts(options, tmp_path)
               if part.name.startswith('tests'))


def test_bars_hold_in_their_direction():
    parts = {'full diffmf/light': {'ended': 'done',
                                   'figures': {'eager_over_graph': 2.5, 'p99_over_p50': 1.2}},
             'start cold diffmf/light': {'ended': 'done', 'figures': {'start_s': 12.0}}}
    text = gpu_page.table(parts)
    assert 'eager_over_graph 2.5 (bar >= 2: met)' in text
    assert 'p99_over_p50 1.2 (bar <= 1.15: MISSED)' in text
    assert 'start_s 12 (bar <= 15: met)' in text


class TestPack:
    """One archive for a machine without a network."""

    @pytest.fixture
    def wheels(self, tmp_path):
        folder = tmp_path / 'wheels'
        folder.mkdir()
        with zipfile.ZipFile(folder / 'a-1.0-py3-none-any.whl', 'w',
                             zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr('a/__init__.py', 'x = 1\n' * 5000)
            wheel.writestr('a-1.0.dist-info/RECORD', 'a/__init__.py,,\n')
        return folder

    @pytest.fixture
    def data(self, tmp_path):
        for modality in ('ir', 'vi'):
            (tmp_path / 'data' / modality).mkdir(parents=True)
            for i in range(20):
                (tmp_path / 'data' / modality / f'{i:02}.jpg').write_bytes(bytes(10_000))
        (tmp_path / 'data' / 'ir' / 'alone.jpg').write_bytes(b'1')
        return tmp_path / 'data'

    def test_wheels_round_trip(self, wheels, data, tmp_path):
        """Wheels come out as they went in."""
        # given a wheel and twenty pairs, when they are packed
        found = offline_pack.pack(tmp_path / 'pack.tar', wheels, data, most_bytes=10 ** 6)
        # then all of it is there
        assert (found['wheels'], found['pairs'], found['left out']) == (1, 20, 0)
        with tarfile.open(tmp_path / 'pack.tar') as archive:
            names = archive.getnames()
            inner = io.BytesIO(lzma.decompress(archive.extractfile('wheels.tar.xz').read()))
        assert ('data/ir/00.jpg' in names and 'data/vi/19.jpg' in names
                and 'data/ir/alone.jpg' not in names)
        with tarfile.open(fileobj=inner) as archive:
            content = io.BytesIO(archive.extractfile('wheels/a-1.0-py3-none-any.whl').read())
        with zipfile.ZipFile(content) as wheel:
            assert wheel.read('a/__init__.py') == b'x = 1\n' * 5000
            assert {entry.compress_type for entry in wheel.infolist()} == {zipfile.ZIP_STORED}

    def test_pairs_thin_out_evenly(self, wheels, data, tmp_path):
        """Pairs are left out evenly until it fits."""
        found = offline_pack.pack(tmp_path / 'pack.tar', wheels, data, most_bytes=270_000)
        assert 8 <= found['pairs'] <= 12 and found['pairs'] + found['left out'] == 20
        assert found['bytes'] <= 270_000
        with tarfile.open(tmp_path / 'pack.tar') as archive:
            kept = sorted(int(Path(name).stem) for name in archive.getnames()
                          if name.startswith('data/ir'))
        assert max(b - a for a, b in zip(kept, kept[1:])) <= 3

    def test_a_tar_of_pairs_will_do(self, wheels, data, tmp_path):
        with tarfile.open(tmp_path / 'pairs.tar', 'w') as archive:
            archive.add(data, 'train')
        found = offline_pack.pack(tmp_path / 'pack.tar', wheels, tmp_path / 'pairs.tar',
                                  most_bytes=10 ** 6)
        assert found['pairs'] == 20

    def test_what_cannot_be_packed_says_why(self, wheels, data, tmp_path):
        with pytest.raises(offline_pack.PackError, match='holds no wheels'):
            offline_pack.pack(tmp_path / 'pack.tar', data, None, most_bytes=10 ** 6)
        with pytest.raises(offline_pack.PackError, match='holds no pairs'):
            offline_pack.pack(tmp_path / 'pack.tar', wheels, wheels, most_bytes=10 ** 6)
        with pytest.raises(offline_pack.PackError,
                           match=r'more than .*: a \(0.0 MB\) are the largest'):
            offline_pack.pack(tmp_path / 'pack.tar', wheels, None, most_bytes=100)


def test_the_state_is_json(new_run, tmp_path):
    new_run().do(python('pass'))
    assert json.loads((tmp_path / 'gpu' / 'gpu.json').read_text())['parts']['first a/net'][
        'ended'] == 'done'
