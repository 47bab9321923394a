# SPDX-License-Identifier: Apache-2.0
"""What comes out while the network raises, returns nonsense, runs out of memory or hangs, and
afterwards."""

import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import texts

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Level, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference import fault_tolerance
from diffmf_ros.inference.fault_tolerance import LONGEST_PAUSE, RECOVERED
from diffmf_ros.inference.onnx_engine import OnnxEngine
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.models import SizeRule

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
PATIENT, IMPATIENT = {'health.compute_timeout_s': 60.0}, {'health.compute_timeout_s': 0.1}
CLASSICAL = with_changes(DEFAULTS, {'model': 'classical'})


def make_pair(seed=0, thermal_encoding='mono8'):
    random = np.random.default_rng(seed)
    return Pair(Frame(RGB, 10 + seed, 'rgb_optical',
                      random.integers(0, 256, (48, 64, 3), np.uint8), 'rgb8'),
                Frame(THERMAL, 11 + seed, 'heat', random.integers(0, 256, (24, 32), np.uint8),
                      thermal_encoding), 1)


class Fake:
    """An engine of numpy that fuses by the maximum, unless `fault` is set: that is called instead.
    """

    device, description, problems = 'cpu', 'a stand-in', ()

    def __init__(self):
        self.fault, self.sizes = None, []

    def __call__(self, ir, y):
        self.sizes.append(y.shape)
        return np.maximum(ir, y) if self.fault is None else self.fault(ir, y)


class Hang:
    """A fault that returns when release() is called."""

    def __init__(self):
        self.go = threading.Event()
        self.images = None

    def __call__(self, ir, y):
        self.images = ir, y
        assert self.go.wait(DEADLINE_S)
        return np.maximum(ir, y)

    def release(self, pipeline):
        """Let the call return, and wait until the pipeline knows."""
        self.go.set()
        deadline_s = time.monotonic() + DEADLINE_S
        while any('hangs' in problem for problem in texts(pipeline.issues)):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)


@pytest.fixture
def network():
    return Fake()


@pytest.fixture
def build(monkeypatch, network):
    """Return build(watchdog=True, **changes of the settings) -> a pipeline around network."""
    made = []

    def build(*, watchdog=True, **changes):
        monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: network)
        made.append(FusionPipeline(with_changes(DEFAULTS, {**PATIENT, **changes}),
                                   watchdog=watchdog))
        return made[-1]
    yield build
    for pipeline in made:
        pipeline.close()


@pytest.fixture
def live(build):
    return build()


@pytest.fixture
def hang(live, network):
    """Let the network of live hang in the next pair.

    Return hang() -> (the result of that pair, the fault).
    """
    def hang():
        assert modes(live, 2) == ['FUSED'] * 2  # from now on it is known how long a pair takes
        network.fault = fault = Hang()
        faults.append(fault)
        live.update(with_changes(DEFAULTS, IMPATIENT))
        result = live.fuse(make_pair(0))
        live.update(with_changes(DEFAULTS, PATIENT))
        network.fault = None
        return result, fault
    faults = []
    yield hang
    for fault in faults:
        fault.go.set()


def modes(pipeline, count):
    return [pipeline.fuse(make_pair(seed)).mode.value for seed in range(count)]


def until(pipeline, mode):
    """Fuse pairs until one comes out in this mode; return it and how many others came before."""
    for count in range(200):
        result = pipeline.fuse(make_pair(count))
        if result.mode is mode:
            return result, count
    raise AssertionError(f'200 pairs, and none of them {mode}')


def classical_image(seed):
    return FusionPipeline(CLASSICAL).fuse(make_pair(seed)).pixels


def raises(error):
    def fault(ir, y):
        raise error
    return fault


OUT_OF_MEMORY = {
    'MemoryError': MemoryError('no memory for the states'),
    'CUDA': RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    'torch on a CPU': RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to "
                                   "allocate 8 bytes"),
    'onnxruntime': Exception('BFCArena::AllocateRawInternal Failed to allocate memory for '
                             'requested buffer'),
}
FAULTS = {
    'RuntimeError': (raises(RuntimeError('kernel launch failed')),
                     'raised RuntimeError: kernel launch failed'),
    'ValueError': (raises(ValueError('no')), 'raised ValueError: no'),
    'KeyError': (raises(KeyError('layer')), "raised KeyError: 'layer'"),
    'NaN': (lambda ir, y: np.where(y > 0.5, np.nan, y).astype(np.float32), 'not finite'),
    'infinity': (lambda ir, y: np.full_like(y, np.inf), 'not finite'),
    'too small': (lambda ir, y: np.zeros((16, 16), np.float32),
                  'the shape .*16, 16.*, expected .*48, 64'),
    'too large': (lambda ir, y: np.zeros((64, 64), np.float32),
                  'the shape .*64, 64.*, expected .*48, 64'),
    **{f'out of memory ({who})': (raises(error), 'raised') for who,
       error in OUT_OF_MEMORY.items()},
}


@pytest.fixture(params=['torch', 'onnx'])
def real_engine(request, monkeypatch, network):
    """A live pipeline on a real engine whose network, behind its tensors of 1 x 1 x H x W, is the
    fake one."""
    def on_arrays(images):
        return network(*(np.asarray(image[0, 0]) for image in images))[None, None]

    if request.param == 'torch':
        torch = pytest.importorskip('torch', reason='torch is not installed')
        from diffmf_ros.models.diffmf import DiffMF
        pipeline = FusionPipeline(with_changes(DEFAULTS,
                                               {'preset': 'nano', 'device': 'cpu', **PATIENT}),
                                  watchdog=True)
        monkeypatch.setattr(DiffMF, 'forward', lambda self,
                            *images: torch.from_numpy(on_arrays(images)))
    else:
        engine = object.__new__(OnnxEngine)
        engine._session = SimpleNamespace(run=lambda names, images: [on_arrays(images.values())])
        engine._header, engine.device, engine.problems = SimpleNamespace(
            sides=SizeRule(16), size=None), 'cpu', ()
        monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: engine)
        pipeline = FusionPipeline(with_changes(DEFAULTS,
                                               {'engine': 'onnx', 'weights': 'x.onnx', **PATIENT}),
                                  watchdog=True)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize('name', FAULTS)
def test_single_failure_costs_two_pairs(real_engine, network, name):
    """A network that fails once costs two pairs and an error."""
    assert modes(real_engine, 1) == ['FUSED'] and real_engine.issues == ()
    network.fault, words = FAULTS[name]

    broken = real_engine.fuse(make_pair(1))
    network.fault = None

    assert broken.mode is Mode.CLASSICAL
    assert np.array_equal(broken.pixels, classical_image(1))
    (warning,), (problem,) = broken.warnings, texts(real_engine.issues)
    assert re.search(words, warning) and warning.endswith('; this pair was fused classically')
    assert re.search(f'the network failed: .*{words}', problem)
    assert modes(real_engine, RECOVERED + 1) == ['CLASSICAL'] + ['FUSED'] * RECOVERED
    assert real_engine.issues == ()


def test_wrong_channel_count_is_refused():
    """An output of another number of channels is refused."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros.inference import NetworkFailure
    from diffmf_ros.inference.engine import Engine
    engine = Engine(with_changes(DEFAULTS, {'preset': 'nano', 'device': 'cpu'}))

    def both(ir, y):
        return torch.cat((ir, y), dim=1)

    both.sides, engine.network = engine.network.sides, both
    with pytest.raises(NetworkFailure,
                       match=r'returned the shape \(1, 2, 48, 64\), expected \(1, 1, 48, 64\)'):
        engine(*np.zeros((2, 48, 64), np.float32))


def test_repeated_failure_backs_off(live, network):
    """A network that keeps failing is tried ever more rarely and always in the same pairs."""
    network.fault = raises(RuntimeError('gone'))

    calls = []
    for _ in range(400):
        before = len(network.sizes)
        assert live.fuse(make_pair()).mode is Mode.CLASSICAL
        calls.append(len(network.sizes) - before)

    tried = np.flatnonzero(calls)
    assert tried[:7].tolist() == [0, 2, 5, 10, 19, 36, 69]
    assert set(np.diff(tried[7:])) == {LONGEST_PAUSE + 1}
    assert texts(live.issues) == ('the network failed 12 times in a row: the network raised '
                                  'RuntimeError: gone',)
    assert live.issues[0].level is Level.ERROR


def test_two_failures_lower_the_size(live, network):
    """After two failures in a row the working size goes down and up again with success."""
    network.fault = lambda ir, y: np.maximum(ir, y) if y.shape[0] <= 24 else 1 / 0

    result, _ = until(live, Mode.FUSED)

    assert network.sizes == [(48, 64)] * 2 + [(36, 48)] * 2 + [(24, 32)]
    assert live.scale.value == 0.5
    assert result.warnings == ('working size 0.5 instead of 1, because the network failed',)
    assert result.pixels.shape == (48, 64, 3)
    network.fault = None
    assert modes(live, 2 * RECOVERED - 1) == ['FUSED'] * (2 * RECOVERED - 1)
    assert live.scale.value == 1.0 and live.issues == ()
    assert live.fuse(make_pair()).warnings == ()


def test_out_of_memory_lowers_size(live, network, monkeypatch):
    """Out of memory frees what is kept and lowers the working size at once."""
    given_back = []
    monkeypatch.setattr(fault_tolerance, 'give_back_memory',
                        lambda: given_back.append(live._loaded.runner.network.backend))
    assert modes(live, 1) == ['FUSED']
    path = live._loaded.runner.network.backend
    network.fault = lambda ir, y: np.maximum(ir,
                                             y) if y.shape[0] < 48 else raises(MemoryError('no'))(
                                                 ir, y)

    assert modes(live, 3) == ['CLASSICAL', 'CLASSICAL', 'FUSED']

    assert live.scale.value == 0.75
    assert len(given_back) == 1 and given_back[0] is not path


def test_out_of_memory_forgets_times(live, network):
    """After a lack of memory the network starts anew: its next slow pair is a first one."""
    usual = live.settings
    live.update(with_changes(usual, {'scale': 0.75}))
    for seed in range(3):  # how long the smaller size takes is known
        live.fuse(make_pair(seed))
    live.update(usual)
    network.fault = raises(MemoryError('no'))
    assert modes(live, 2) == ['CLASSICAL'] * 2 and live.scale.value == 0.75
    network.fault = fault = Hang()
    live.update(with_changes(DEFAULTS, IMPATIENT))

    result = live.fuse(make_pair(0))

    fault.go.set()
    assert 'the network prepares for images of this size' in result.warnings[0]


def test_hanging_network_gives_classical(live, network, hang):
    """A network that hangs gives classical images until it comes back."""
    first, fault = hang()
    others = [live.fuse(make_pair(seed)) for seed in range(1, 150)]

    assert first.mode is Mode.CLASSICAL
    assert first.warnings == ('the network gave no result within 0.1 s; this pair was fused '
                              'classically',)
    assert {(result.mode, *result.warnings) for result in others} == {
        (Mode.CLASSICAL, 'the network hangs; this pair was fused classically')}
    assert np.array_equal(others[4].pixels, classical_image(5))
    assert 'the network hangs, its last call has not come back' in texts(live.issues)
    assert len(network.sizes) == 3  # one after the other, and none while it hangs
    fault.release(live)
    assert modes(live, 3) == ['CLASSICAL', 'FUSED', 'FUSED']


def test_late_result_reaches_nobody(live, hang):
    """The late result of a hanging network reaches nobody and its images stay as they were."""
    expected = live.fuse(make_pair(7)).pixels
    _, fault = hang()
    before = [image.copy() for image in fault.images]

    modes(live, 5)

    assert all(np.array_equal(image, kept) for image, kept in zip(fault.images, before))
    fault.release(live)
    until(live, Mode.FUSED)
    assert np.array_equal(live.fuse(make_pair(7)).pixels, expected)


def test_stuck_network_does_not_block_close(live, hang):
    """A network that never comes back does not hold up the end."""
    _, fault = hang()
    assert set(modes(live, 50)) == {'CLASSICAL'}

    live.close()

    assert not fault.go.is_set()  # it returned although the call is still in work


def test_replacing_hanging_network_fuses_once(live, hang, monkeypatch):
    """A network that replaces a hanging one fuses at once."""
    hang()
    assert modes(live, 2) == ['CLASSICAL'] * 2
    monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: Fake())

    live.swap(live.load(DEFAULTS))

    assert modes(live, 2) == ['FUSED'] * 2 and live.issues == ()


def test_slow_first_pair_is_ok(build, network):
    """A slow first pair of a size is no failure."""
    pipeline = build(**IMPATIENT)
    network.fault = fault = Hang()

    first, second = pipeline.fuse(make_pair(0)), pipeline.fuse(make_pair(1))

    assert {first.mode, second.mode} == {Mode.CLASSICAL}
    assert first.warnings == second.warnings == (
        'the network prepares for images of this size; this pair was fused classically',)
    assert pipeline.issues == ()
    network.fault = None
    fault.go.set()
    until(pipeline, Mode.FUSED)
    assert pipeline.issues == () and pipeline.scale.value == 1.0


def test_endless_first_pair_fails(build, network, monkeypatch):
    """A first pair that never ends is a failure."""
    pipeline = build(**IMPATIENT)
    network.fault = fault = Hang()
    pipeline.fuse(make_pair(0))
    monkeypatch.setattr(fault_tolerance, 'FIRST_CALL_S', 0.0)

    assert pipeline.fuse(make_pair(1)).warnings == ('the network hangs; this pair was fused '
                                                    'classically',)
    assert 'the network hangs' in texts(pipeline.issues)[0]
    fault.go.set()


def test_slow_failing_first_pair_counts(build, network):
    """A slow first pair that fails in the end counts as a failure."""
    pipeline = build(**IMPATIENT)
    fault = Hang()
    network.fault = lambda ir, y: fault(ir, y)[:0]
    pipeline.fuse(make_pair(0))
    network.fault = None
    fault.go.set()

    until(pipeline, Mode.FUSED)

    assert re.match('the network failed lately: ', texts(pipeline.issues)[0])


@pytest.mark.parametrize('grid, mode', [('rgb', Mode.RGB_ONLY), ('thermal', Mode.THERMAL_ONLY)])
def test_classical_failure_passes_grid_camera(build, network, monkeypatch, grid, mode):
    """When classical fusion fails too the image of the grid's camera is passed on."""
    works = fault_tolerance.classical.fuse
    fault = raises(MemoryError('nothing left'))
    monkeypatch.setattr(fault_tolerance.classical, 'fuse', lambda ir,
                        y: fault(ir, y) if network.fault else works(ir, y))
    pipeline = build(**{'alignment.output_grid': grid})
    network.fault = fault
    pair = make_pair()

    result = pipeline.fuse(pair)

    frame = pair.rgb if grid == 'rgb' else pair.thermal
    assert (result.mode, result.grid, result.stamp_ns,
            result.frame_id) == (mode, grid, frame.stamp_ns, frame.frame_id)
    assert np.array_equal(result.pixels, pair.rgb.pixels if grid == 'rgb'
                          else np.dstack([pair.thermal.pixels] * 3))
    assert result.warnings == (
        'the network raised MemoryError: nothing left; this pair was fused classically',
        f'classical fusion raised MemoryError: nothing left; the {grid} image was passed on')
    assert 'classical fusion raised MemoryError: nothing left' in texts(pipeline.issues)
    network.fault = None
    assert modes(pipeline, 2) == ['CLASSICAL', 'FUSED']
    assert 'classical fusion raised MemoryError: nothing left' not in texts(pipeline.issues)


def test_failed_color_passes_grid_camera(live, monkeypatch):
    """When the color of a fused image cannot be made, the image of the grid's camera is passed on.
    """
    fault = raises(MemoryError('nothing left'))
    monkeypatch.setattr('diffmf_ros.inference.prepare.paint',
                        lambda luma, chroma, **options: fault(luma, chroma))
    pair = make_pair()

    result = live.fuse(pair)

    assert result.mode is Mode.RGB_ONLY and np.array_equal(result.pixels, pair.rgb.pixels)
    assert result.warnings == ('the color of the fused image raised MemoryError: nothing left; '
                               'the rgb image was passed on',)


def test_classical_issue_clears_with_network(build, network, monkeypatch):
    """Classical fusion that failed is no issue any more when the network works."""
    monkeypatch.setattr(fault_tolerance.classical, 'fuse', raises(MemoryError('nothing left')))
    live = build()
    network.fault = raises(RuntimeError('gone'))
    assert modes(live, 1) == ['RGB_ONLY']

    network.fault = None

    assert modes(live, 2) == ['RGB_ONLY', 'FUSED']  # the network rests for one pair
    assert not any('classical fusion' in problem for problem in texts(live.issues))


def test_unusable_frame_spares_the_network(live):
    """An unusable frame is refused and is no failure of the network."""
    with pytest.raises(FrameError):
        live.fuse(make_pair(thermal_encoding='mono12'))
    assert live.issues == () and modes(live, 1) == ['FUSED']


def test_offline_failure_concerns_one_pair(build, network):
    """Offline a failure concerns its pair alone."""
    pipeline = build(watchdog=False)
    undisturbed = [pipeline.fuse(make_pair(seed)).pixels for seed in range(6)]

    results = []
    for seed in range(6):
        network.fault = raises(MemoryError('for a moment')) if seed in (1, 2, 3) else None
        results.append(pipeline.fuse(make_pair(seed)))

    assert [result.mode.value
            for result in results] == ['FUSED'] + ['CLASSICAL'] * 3 + ['FUSED'] * 2
    assert all(np.array_equal(results[seed].pixels, undisturbed[seed]) for seed in (0, 4, 5))
    assert network.sizes == [(48, 64)] * 12


def test_offline_uses_calling_thread(build, network):
    """Offline everything runs in the calling thread."""
    threads = []
    network.fault = lambda ir, y: threads.append(threading.get_ident()) or y
    build(watchdog=False).fuse(make_pair())
    build(watchdog=True).fuse(make_pair())
    assert threads[0] == threading.get_ident() != threads[1]


def test_live_and_offline_pixels_equal(build):
    """Live and offline give the same pixels."""
    pixels = [build(watchdog=watched).fuse(make_pair(3)).pixels for watched in (True, False)]
    assert np.array_equal(*pixels)
