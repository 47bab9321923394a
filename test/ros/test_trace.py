# SPDX-License-Identifier: Apache-2.0
"""The path of one steady pair through the node, from two messages to the published image, within
bounds.

Counted are the calls of functions and methods of the package, in every thread, without those of
models/ (the network's own layers), comprehensions and generator expressions. `pytest -s` prints
the path.
"""

import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

import diffmf_ros

PACKAGE = str(Path(diffmf_ros.__file__).parent)
TESTS = Path(__file__).parents[1]
WARM_PAIRS, TRACED_PAIRS = 12, 8
PAINTED = 'core/imaging/color.py', 'paint'  # a single camera that is passed on is not
LAST = 'ros/status.py', 'fused'  # what happens to a pair at the end
PERIODIC = {'_refresh', '_report'}  # timers of the node, no part of the path of a pair


class Recorder:
    """Calls of the package's functions as (file, function), in order, while `calls` is a list."""

    def __init__(self):
        self.calls = None

    def __call__(self, frame, event, _):
        code = frame.f_code
        if self.calls is None or event != 'call' or not code.co_filename.startswith(PACKAGE):
            return
        file = code.co_filename[len(PACKAGE) + 1:]
        if not file.startswith('models/') and not code.co_name.startswith('<') and not apart(
                frame):
            self.calls.append((file, code.co_name))


def apart(frame):
    """Return whether a call belongs to a timer of the node, or the package was entered from a file
    of the tests, and not from an executor or a thread."""
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_code.co_name in PERIODIC:
            return True
        frame = frame.f_back
    return frame is not None and Path(frame.f_code.co_filename).is_relative_to(TESTS)


@pytest.fixture
def recorder():
    """Yield a Recorder that also hears the threads that start later."""
    recorder = Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    yield recorder
    threading.setprofile(None)
    sys.setprofile(None)


def traced(cameras, recorder):
    """Return the calls of the shortest of some pairs in a row that were fused."""
    for _ in range(WARM_PAIRS):
        cameras.fuse_one()
    found = []
    for _ in range(TRACED_PAIRS):
        recorder.calls = calls = []
        cameras.fuse_one()
        cameras.state()
        recorder.calls = None
        if PAINTED in calls and LAST in calls:
            found.append(calls)
    assert found, 'no pair was fused'
    return min(found, key=len)


def shown(calls):
    """Return the path as text: each file in the order in which it is entered, its functions and
    their calls."""
    files = dict.fromkeys(file for file, _ in calls)
    counts = Counter(calls)
    lines = [f'{len(calls)} calls, {len(counts)} functions, {len(files)} files']
    for file in files:
        lines.append(f'{file}: ' + ', '.join(f'{name} {count}' if count > 1 else name
                                             for (of, name),
                                             count in counts.items() if of == file))
    return '\n'.join(lines)


@pytest.mark.parametrize('model, most_files, most_calls', [
    ({'model': 'classical'}, 24, 200),
    ({'model': 'diffmf', 'preset': 'nano', 'device': 'cpu'}, 25, 200),
], ids=['classical', 'nano'])
def test_pair_takes_short_path(recorder, make_cameras, model, most_files, most_calls):
    """One pair, message in to message out, passes few files and calls, and asks each camera's
    state once a frame."""
    if model['model'] != 'classical':
        pytest.importorskip('torch', reason='torch is not installed')

    calls = traced(make_cameras(**model), recorder)

    print(f'\n{shown(calls)}')
    assert len({file for file, _ in calls}) <= most_files
    assert len(calls) <= most_calls
    # the state of a stream before its frame, and of both streams after it
    assert calls.count(('core/sync/stream_health.py', 'status')) <= 6
