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

import diffmf_ros
from diffmf_ros.core.alignment.geometry import AlignmentError
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.errors import EngineError
from diffmf_ros.inference.pipeline import FusionPipeline

torch = pytest.importorskip('torch', reason='torch is not installed')
from diffmf_ros.inference.weights import save_weights  # noqa: E402
from diffmf_ros.inference.weights_header import WeightsError  # noqa: E402
from diffmf_ros.models.diffmf import DiffMF  # noqa: E402

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
def test_after_the_swap_the_other_network_fuses(pipeline, wanted, mode, description):
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
def test_weights_that_are_no_good_are_refused_and_the_old_network_goes_on(
        pipeline, tmp_path, weights, words):
    before = pipeline.fuse(make_pair()).pixels

    with pytest.raises(WeightsError, match=words):
        pipeline.load(with_changes(LIGHT, {'weights': str(weights(tmp_path))}))

    result = pipeline.fuse(make_pair())
    assert (result.mode, pipeline.description) == (Mode.FUSED, 'diffmf nano')
    assert np.array_equal(result.pixels, before)


def test_a_network_that_fails_on_the_sizes_in_use_is_refused(pipeline, monkeypatch):
    before = pipeline.fuse(make_pair()).pixels
    forward = DiffMF.forward

    def too_small_a_device(network, ir, y):
        if network is not pipeline._loaded.guard.network._engine.network and y.shape[2:] == (
                48, 64):
            raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(network, ir, y)
    monkeypatch.setattr(DiffMF, 'forward', too_small_a_device)

    with pytest.raises(EngineError, match='diffmf light was loaded, but the network raised '
                       'OutOfMemoryError: CUDA'):
        pipeline.load(LIGHT)

    assert np.array_equal(pipeline.fuse(make_pair()).pixels, before)
    assert pipeline.problems == ()


def test_a_device_without_memory_for_a_second_network_is_an_error_that_says_so(
        pipeline, monkeypatch):
    def no_memory(network, **options):
        raise RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB')
    monkeypatch.setattr('diffmf_ros.inference.engine.prepare', no_memory)
    with pytest.raises(EngineError,
                       match='diffmf light cannot be loaded: RuntimeError: CUDA out of memory'):
        pipeline.load(LIGHT)


def test_without_torch_a_network_cannot_be_loaded(pipeline, monkeypatch):
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


def test_the_new_network_is_warm_for_the_size_in_use_or_the_one_that_is_set(sizes):
    pipeline = FusionPipeline(CLASSICAL)

    pipeline.load(with_changes(NANO, {'warm_up_size': '32x16'}))
    pipeline.fuse(make_pair())
    pipeline.load(with_changes(NANO, {'warm_up_size': '32x16'}))
    pipeline.load(with_changes(NANO, {'adaptive_scale': True, 'scale': 0.5}))

    assert sizes == [(16, 32)] * 2 + [(48, 64)] * 2 + [(24,
                                                        32)] * 2 + [(17, 22)] * 2 + [(12, 16)] * 2


def test_loading_in_another_thread_does_not_disturb_the_network_in_use(pipeline, monkeypatch):
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
def test_the_old_network_is_freed_at_once(watchdog):
    pipeline = FusionPipeline(NANO, watchdog=watchdog)
    pipeline.fuse(make_pair())
    old = weakref.ref(pipeline._loaded.guard.network._engine.network)
    loaded = pipeline.load(CLASSICAL)
    gc.collect()
    gc.disable()
    try:
        pipeline.swap(loaded)
        assert old() is None
    finally:
        gc.enable()


def test_what_a_device_path_keeps_is_freed_at_once():
    from diffmf_ros.inference.device_path import DevicePath
    from diffmf_ros.inference.engine import Engine
    path = DevicePath(Engine(NANO))
    kept = weakref.ref(path._prepared)
    gc.collect()
    gc.disable()
    try:
        del path
        assert kept() is None
    finally:
        gc.enable()


def test_other_settings_are_in_effect_from_the_next_pair_on_and_the_network_stays(pipeline):
    pipeline.fuse(make_pair())
    pipeline.update(with_changes(LIGHT, {'output.color': 'gray',
                                         'alignment.output_grid': 'thermal', 'max_pixels': 4000}))
    result = pipeline.fuse(make_pair())
    assert (result.pixels.shape, result.encoding) == ((24, 32), 'mono8')
    assert (result.grid, result.frame_id) == ('thermal', 'heat')
    assert (result.mode, pipeline.description) == (Mode.FUSED, 'diffmf nano')


def test_thermal_settings_and_the_scale_change_live(pipeline, sizes):
    white = pipeline.align(make_pair())[0]
    pipeline.update(with_changes(NANO, {'thermal.polarity': 'black_hot', 'scale': 0.5}))
    pipeline.fuse(make_pair())
    assert sizes == [(24, 32)]
    assert np.abs(pipeline.align(make_pair())[0].astype(int) - (255 - white)).max() <= 1


def test_settings_of_which_one_is_no_good_change_nothing(pipeline, tmp_path):
    before = pipeline.fuse(make_pair())
    with pytest.raises(AlignmentError, match='cannot read'):
        pipeline.update(with_changes(NANO, {'alignment.file': str(tmp_path / 'missing.yaml'),
                                            'output.color': 'gray',
                                       'thermal.polarity': 'black_hot'}))
    after = pipeline.fuse(make_pair())
    assert after.encoding == before.encoding == 'rgb8'
    assert np.array_equal(after.pixels, before.pixels)


def test_warm_up_prepares_the_size_and_leaves_the_gain_control_alone(pipeline, sizes):
    expected = pipeline.align(make_pair())[0]
    pipeline.warm_up((32, 16))
    assert sizes == [(16, 32)] * 2
    pipeline.warm_up()
    assert sizes[2:] == [(480, 640)] * 2
    assert np.array_equal(pipeline.align(make_pair())[0], expected)
    assert pipeline.problems == ()


def test_a_warm_up_that_fails_is_shown_as_a_problem(pipeline, monkeypatch):
    monkeypatch.setattr(DiffMF, 'forward', lambda net, ir, y: 1 / 0)
    pipeline.warm_up((32, 16))
    assert pipeline.problems == ('the network failed: the network raised ZeroDivisionError: '
                                 'division by zero',)


def test_memory_is_told_in_bytes(pipeline):
    rss = pipeline.memory()['rss']
    block = np.ones(64 << 20, np.uint8)
    grown = pipeline.memory()['rss'] - rss
    assert 0.8 * block.size < grown < 3 * block.size
    assert ('cuda' in pipeline.memory()) == torch.cuda.is_initialized()


def test_the_thread_of_the_old_network_ends_with_its_last_pair(pipeline):
    thread = pipeline._loaded.guard._watchdog._thread
    pipeline.swap(pipeline.load(CLASSICAL))
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
