# SPDX-License-Identifier: Apache-2.0
"""Another network, loaded beside the one in use and swapped in between pairs; and settings changed
between pairs."""

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import texts

import diffmf_ros
from diffmf_ros.core.alignment.geometry import AlignmentError
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference import EngineError
from diffmf_ros.inference.pipeline import FusionPipeline

torch = pytest.importorskip('torch', reason='torch is not installed')
from diffmf_ros.inference.weights import save_weights  # noqa: E402
from diffmf_ros.inference.weights_header import WeightsError  # noqa: E402
from diffmf_ros.models.diffmf import DiffMF  # noqa: E402

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
NANO = with_changes(DEFAULTS, {'preset': 'nano', 'device': 'cpu', 'precision': 'float32'})
LIGHT = with_changes(NANO, {'preset': 'light'})
S4FUSION, REFINEFUSE = (with_changes(LIGHT, {'model': model})
                        for model in ('s4fusion', 'refinefuse'))
CLASSICAL = with_changes(NANO, {'model': 'classical'})


def make_pair(seed=0):
    random = np.random.default_rng(seed)
    return Pair(Frame(RGB, 10, 'rgb_optical', random.integers(0, 256, (48, 64, 3), np.uint8),
                      'rgb8'),
                Frame(THERMAL, 11, 'heat', random.integers(0, 256, (24, 32), np.uint8), 'mono8'),
                1)


def fused_by(settings):
    return FusionPipeline(settings).fuse(make_pair()).pixels


@pytest.fixture
def pipeline():
    pipeline = FusionPipeline(NANO, watchdog=True)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize('wanted, mode, description', [
    (LIGHT, Mode.FUSED, 'diffmf light'), (S4FUSION, Mode.FUSED, 's4fusion light'),
    (REFINEFUSE, Mode.FUSED, 'refinefuse light'), (CLASSICAL, Mode.CLASSICAL, 'classical')])
def test_swapped_network_fuses(pipeline, wanted, mode, description):
    """After the swap the other network fuses."""
    before = pipeline.fuse(make_pair()).pixels
    loaded = pipeline.load(wanted)
    assert np.array_equal(pipeline.fuse(make_pair()).pixels, before)

    pipeline.swap(loaded)

    result = pipeline.fuse(make_pair())
    assert (result.mode, pipeline.description) == (mode, description)
    assert np.array_equal(result.pixels, fused_by(wanted))
    assert not np.array_equal(result.pixels, before)
    pipeline.swap(pipeline.load(NANO))
    assert np.array_equal(pipeline.fuse(make_pair()).pixels, before)


def missing(folder):
    return folder / 'missing.safetensors'


def damaged(folder):
    path = folder / 'damaged.safetensors'
    content = bytearray((Path(diffmf_ros.__file__).parent
                         / 'weights/diffmf_light.safetensors').read_bytes())
    content[-100] ^= 255
    path.write_bytes(content)
    return path


def untrained(folder):
    path = folder / 'untrained.safetensors'
    save_weights(path, {}, model='diffmf', preset='light', iterations=0, seed=0)
    return path


@pytest.mark.parametrize('weights, words', [(missing, 'does not exist'), (damaged, 'is damaged'),
                                            (untrained, 'untrained')])
def test_bad_weights_keep_old_network(pipeline, tmp_path, weights, words):
    """Weights that are no good are refused and the old network goes on."""
    before = pipeline.fuse(make_pair()).pixels

    with pytest.raises(WeightsError, match=words):
        pipeline.load(with_changes(LIGHT, {'weights': str(weights(tmp_path))}))

    result = pipeline.fuse(make_pair())
    assert (result.mode, pipeline.description) == (Mode.FUSED, 'diffmf nano')
    assert np.array_equal(result.pixels, before)


def test_network_failing_sizes_is_refused(pipeline, monkeypatch):
    """A network that fails on the sizes in use is refused."""
    before = pipeline.fuse(make_pair()).pixels
    forward = DiffMF.forward

    def too_small_a_device(network, ir, y):
        if network is not pipeline._loaded.runner.network._engine.network and y.shape[2:] == (
                48, 64):
            raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(network, ir, y)
    monkeypatch.setattr(DiffMF, 'forward', too_small_a_device)

    with pytest.raises(EngineError, match='diffmf light was loaded, but the network raised '
                       'OutOfMemoryError: CUDA'):
        pipeline.load(LIGHT)

    assert np.array_equal(pipeline.fuse(make_pair()).pixels, before)
    assert pipeline.issues == ()


def test_no_memory_for_second_network(pipeline, monkeypatch):
    """A device without memory for a second network is an error that says so."""
    def no_memory(network, **options):
        raise RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB')
    monkeypatch.setattr('diffmf_ros.inference.engine.prepare', no_memory)
    with pytest.raises(EngineError,
                       match='diffmf light cannot be loaded: RuntimeError: CUDA out of memory'):
        pipeline.load(LIGHT)


def test_without_torch_loading_fails(pipeline, monkeypatch):
    """Without torch a network cannot be loaded."""
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.delitem(sys.modules, 'diffmf_ros.inference.engine')
    with pytest.raises(EngineError,
                       match='diffmf light needs torch, which cannot be imported'):
        pipeline.load(LIGHT)


@pytest.fixture
def sizes(monkeypatch):
    """The (height, width) of every pair that a network has got."""
    from diffmf_ros.inference.engine import Engine
    sizes, call = [], Engine.__call__

    def noted(engine, ir, y):
        sizes.append(y.shape)
        return call(engine, ir, y)
    monkeypatch.setattr(Engine, '__call__', noted)
    return sizes


def test_new_network_is_warm(sizes):
    """The new network is warm for the size in use or the one that is set."""
    pipeline = FusionPipeline(CLASSICAL)

    pipeline.load(with_changes(NANO, {'warm_up_size': '32x16'}))
    pipeline.fuse(make_pair())
    pipeline.load(with_changes(NANO, {'warm_up_size': '32x16'}))
    pipeline.load(with_changes(NANO, {'adaptive_scale': True, 'scale': 0.5}))

    assert sizes == [(16, 32)] * 2 + [(48, 64)] * 2 + [(24,
                                                        32)] * 2 + [(17, 22)] * 2 + [(12, 16)] * 2


def test_loading_leaves_network_undisturbed(pipeline, monkeypatch):
    """Loading in another thread does not disturb the network in use."""
    counts, forward = [], DiffMF.forward

    def counted(network, ir, y):
        counts.append((id(network), torch.get_num_threads()))
        return forward(network, ir, y)
    monkeypatch.setattr(DiffMF, 'forward', counted)
    by_itself = torch.get_num_threads()
    expected = pipeline.fuse(make_pair()).pixels
    (running, _), = counts

    with ThreadPoolExecutor(1) as loader:
        loading = loader.submit(pipeline.load, with_changes(LIGHT, {'threads': by_itself + 1}))
        pairs = 0
        while not loading.done() or pairs < 5:
            result = pipeline.fuse(make_pair())
            assert result.mode is Mode.FUSED and np.array_equal(result.pixels, expected)
            pairs += 1
        pipeline.swap(loading.result())
    pipeline.fuse(make_pair())
    torch.set_num_threads(by_itself)

    assert {threads for network, threads in counts if network == running} == {by_itself}
    assert {threads for network, threads in counts if network != running} == {by_itself + 1}


@pytest.mark.parametrize('watchdog', [False, True])
def test_old_network_is_freed(watchdog):
    """The old network is freed at once."""
    pipeline = FusionPipeline(NANO, watchdog=watchdog)
    pipeline.fuse(make_pair())
    old = weakref.ref(pipeline._loaded.runner.network._engine.network)
    loaded = pipeline.load(CLASSICAL)
    gc.collect()
    gc.disable()
    try:
        pipeline.swap(loaded)
        assert old() is None
    finally:
        gc.enable()


def test_device_path_memory_is_freed():
    """What a device path keeps is freed at once."""
    from diffmf_ros.inference.cuda_backend import CudaBackend
    from diffmf_ros.inference.engine import Engine
    path = CudaBackend(Engine(NANO))
    kept = weakref.ref(path._prepared)
    gc.collect()
    gc.disable()
    try:
        del path
        assert kept() is None
    finally:
        gc.enable()


def test_settings_apply_with_next_pair(pipeline):
    """Other settings are in effect from the next pair on and the network stays."""
    pipeline.fuse(make_pair())
    pipeline.update(with_changes(LIGHT, {'output.color': 'gray',
                                         'alignment.output_grid': 'thermal', 'max_pixels': 4000}))
    result = pipeline.fuse(make_pair())
    assert (result.pixels.shape, result.encoding) == ((24, 32), 'mono8')
    assert (result.grid, result.frame_id) == ('thermal', 'heat')
    assert (result.mode, pipeline.description) == (Mode.FUSED, 'diffmf nano')


def test_thermal_and_scale_change_live(pipeline, sizes):
    """Thermal settings and the scale change live."""
    white = pipeline.align(make_pair())[0]
    pipeline.update(with_changes(NANO, {'thermal.polarity': 'black_hot', 'scale': 0.5}))
    pipeline.fuse(make_pair())
    assert sizes == [(24, 32)]
    assert np.abs(pipeline.align(make_pair())[0].astype(int) - (255 - white)).max() <= 1


def test_one_bad_setting_changes_nothing(pipeline, tmp_path):
    """Settings of which one is no good change nothing."""
    before = pipeline.fuse(make_pair())
    with pytest.raises(AlignmentError, match='cannot read'):
        pipeline.update(with_changes(NANO, {'alignment.file': str(tmp_path / 'missing.yaml'),
                                            'output.color': 'gray',
                                       'thermal.polarity': 'black_hot'}))
    after = pipeline.fuse(make_pair())
    assert after.encoding == before.encoding == 'rgb8'
    assert np.array_equal(after.pixels, before.pixels)


def test_warm_up_keeps_gain_control(pipeline, sizes):
    """Warm up prepares the size and leaves the gain control alone."""
    expected = pipeline.align(make_pair())[0]
    pipeline.warm_up((32, 16))
    assert sizes == [(16, 32)] * 2
    pipeline.warm_up()
    assert sizes[2:] == [(480, 640)] * 2
    assert np.array_equal(pipeline.align(make_pair())[0], expected)
    assert pipeline.issues == ()


def test_failed_warm_up_is_issue(pipeline, monkeypatch):
    """A warm-up that fails is shown as an issue."""
    monkeypatch.setattr(DiffMF, 'forward', lambda net, ir, y: 1 / 0)
    pipeline.warm_up((32, 16))
    assert texts(pipeline.issues) == ('the network failed: the network raised ZeroDivisionError: '
                                      'division by zero',)


def test_memory_is_told_in_bytes(pipeline):
    rss = pipeline.memory()['rss']
    block = np.ones(64 << 20, np.uint8)
    grown = pipeline.memory()['rss'] - rss
    assert 0.8 * block.size < grown < 3 * block.size
    assert ('cuda' in pipeline.memory()) == torch.cuda.is_initialized()


def test_old_thread_ends_with_pair(pipeline):
    """The thread of the old network ends with its last pair."""
    thread = pipeline._loaded.runner._calls._thread
    pipeline.swap(pipeline.load(CLASSICAL))
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
