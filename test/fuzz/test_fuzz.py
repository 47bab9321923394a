# SPDX-License-Identifier: Apache-2.0
"""10,000 random inputs. FUZZ_CASES sets another number; then the cases are new ones each time."""

import os

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from diffmf_ros.core.frames import DiffmfError, FrameError
from diffmf_ros.core.imaging.compressed import decode, size_of

from . import guided
from .guided import kept
from .targets import TARGETS, refused

pytestmark = pytest.mark.slow

CASES = int(os.environ.get('FUZZ_CASES', 10_000))


def trial(name, count):
    """Return a function that tries so many cases of a target, and a list that grows by each."""
    cases, check, _ = TARGETS[name]
    tried = []

    @settings(
        max_examples=count,
        derandomize='FUZZ_CASES' not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def try_one(case):
        tried.append(1)
        try:
            check(case)
        except DiffmfError as error:
            assert refused(error), repr(error)

    return try_one, tried


@pytest.mark.parametrize('name', TARGETS)
def test_bad_input_has_a_reason(name):
    """Bad input is refused with a reason."""
    share = TARGETS[name][2]
    try_all, tried = trial(name, round(CASES * share))

    try_all()

    assert len(tried) >= 0.5 * CASES * share or name == 'ONNX headers'


@pytest.mark.parametrize('name', TARGETS)
def test_kept_inputs_have_reasons(name):
    """What guided fuzzing has kept, because it reached something new, is refused with a reason."""
    try_one, tried = trial(name, 1)

    for content in kept().get(name, []):
        try_one.hypothesis.fuzz_one_input(content)

    assert tried or name not in kept()


def test_guided_fuzzing_takes_new_targets(tmp_path, monkeypatch):
    """A target of which nothing is kept yet is fuzzed, too."""
    monkeypatch.setattr(guided, 'KEPT', tmp_path / 'corpus.json')
    guided.KEPT.write_text('{}')
    monkeypatch.setattr(guided, 'fuzz', lambda name, seconds, folder: [name.encode()])
    monkeypatch.setattr('sys.argv', ['guided', '1'])

    guided.main()

    assert kept() == {name: [name.encode()] for name in TARGETS}


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_oversized_header_refused_before_decoding(suffix):
    """A header that promises too much is refused before decoding.

    OpenCV would allocate 2.7 GB for a few hundred bytes.
    """
    content = bytearray(cv2.imencode(suffix, np.zeros((12, 16, 3), np.uint8))[1].tobytes())
    assert size_of(content) == (16, 12)
    place, count = (16, 4) if suffix == '.png' else (content.index(b'\xff\xc0') + 5, 2)
    content[place : place + 2 * count] = (30_000).to_bytes(count, 'big') * 2

    with pytest.raises(FrameError, match='promise 30000x30000') as raised:
        decode(bytes(content), suffix)
    assert raised.value.reason == 'too_large'
