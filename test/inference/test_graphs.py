# SPDX-License-Identifier: Apache-2.0
"""Replays, uploads and downloads: on a CPU the plain function, on CUDA a graph and pinned memory.
"""

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.inference.graphs import Download, Replay, Uploads  # noqa: E402

DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


@pytest.mark.parametrize('device', DEVICES)
def test_replay_matches_function(device):
    """A replay gives what the function gives for every input."""
    inputs = [torch.full((3, 4), float(value), device=device) for value in (1, 2)]

    replay = Replay(lambda a, b: 10 * a + b, inputs)

    assert replay.problem is None
    for a, b in ((1.0, 2.0), (3.0, 4.0), (-1.0, 0.5)):
        given = torch.full((3, 4), a, device=device), torch.full((3, 4), b, device=device)
        assert (replay(*given) == 10 * a + b).all()


def test_cpu_runs_once_per_call():
    """On a CPU the function runs once per call and never at construction."""
    calls = []

    replay = Replay(lambda a: calls.append(1) or a + 1, [torch.zeros(2)])

    assert calls == []
    assert replay(torch.ones(2)).tolist() == [2.0, 2.0]
    assert calls == [1]


@needs_cuda
def test_cuda_runs_only_at_capture():
    """On CUDA the function is not called again after the capture."""
    calls = []
    replay = Replay(lambda a: calls.append(1) or a + 1, [torch.zeros(2, device='cuda')])
    captured = len(calls)

    assert replay(torch.ones(2, device='cuda')).tolist() == [2.0, 2.0]
    assert len(calls) == captured


@needs_cuda
def test_inference_capture_replays_outside():
    """What was captured for inference is replayed outside of it."""
    with torch.inference_mode():
        replay = Replay(lambda a: a + 1, [torch.zeros(2, device='cuda')])

    assert replay.problem is None
    assert replay(torch.ones(2, device='cuda')).tolist() == [2.0, 2.0]


@needs_cuda
def test_uncapturable_runs_and_says_why():
    """What cannot be captured runs as it is and says why."""
    replay = Replay(lambda a: a + a.sum().item(), [torch.zeros(2, device='cuda')])

    assert 'no CUDA graph could be captured' in replay.problem
    assert replay(torch.ones(2, device='cuda')).tolist() == [3.0, 3.0]


@pytest.mark.parametrize('device', DEVICES)
def test_arrays_arrive_bit_by_bit(device):
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (5, 7, 3), np.uint8),
              random.integers(0, 65536, (4, 6)).astype(np.uint16),
              np.array([1.5, np.nan, -np.inf], np.float32)]
    uploads = Uploads([(array.shape, array.dtype.name) for array in arrays], device=device)

    for _ in range(3):
        for index, array in enumerate(arrays):
            uploads.write(index, array)
        arrived = [tensor.cpu().numpy() for tensor in uploads.take()]

        assert np.array_equal(arrived[0], arrays[0])
        assert arrived[1].dtype == np.int16 and np.array_equal(arrived[1].view(np.uint16),
                                                               arrays[1])
        assert np.array_equal(arrived[2], arrays[2], equal_nan=True)
        arrays = [array[::-1].copy() for array in arrays]


@pytest.mark.parametrize('device', DEVICES)
def test_taken_outputs_survive_next_write(device):
    """What was taken stays while the next set is written."""
    uploads = Uploads([((4,), 'uint8')], device=device)
    uploads.write(0, np.full(4, 1, np.uint8))
    first, = uploads.take()

    uploads.write(0, np.full(4, 2, np.uint8))

    assert first.tolist() == [1, 1, 1, 1]
    assert uploads.take()[0].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize('device', DEVICES)
def test_strided_and_read_only_arrays(device):
    """Strided and read-only arrays are accepted."""
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, ::2]
    array.flags.writeable = False
    uploads = Uploads([(array.shape, 'uint8')], device=device)

    uploads.write(0, array)

    assert np.array_equal(uploads.take()[0].cpu().numpy(), array)


@pytest.mark.parametrize('device', DEVICES)
def test_a_download_brings_the_values(device):
    download, called = Download(6, device=device), []

    for start in (0, 100):
        values = torch.arange(start, start + 6, dtype=torch.uint8, device=device)
        found = download(values, partial(called.append, start))
        assert found.tolist() == [*range(start, start + 6)]
    assert called == [0, 100]
