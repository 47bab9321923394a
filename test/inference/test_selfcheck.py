# SPDX-License-Identifier: Apache-2.0
"""What a backend gets wrong on this machine is found before a network uses it.

The next one does it.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import run_cases  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.inference import golden, selfcheck, selfcheck_steps  # noqa: E402
from diffmf_ros.inference.engine import prepare  # noqa: E402
from diffmf_ros.inference.golden import allowed_errors  # noqa: E402
from diffmf_ros.models import fused, scan  # noqa: E402
from diffmf_ros.models.kernels import portable, reference  # noqa: E402

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def backend(**functions):
    """The portable backend with some of its functions replaced."""
    names = ('unavailable', 'refuses', 'selective_scan', 'ss2d', 'ssd')
    return SimpleNamespace(**{name: getattr(portable, name) for name in names} | functions)


def choose(monkeypatch, first, *, wanted='auto', dtype=torch.float32):
    """Choose among a backend called first, the portable one and the loop."""
    monkeypatch.setattr(scan, 'BACKENDS',
                        {'first': first, 'portable': portable, 'reference': reference})
    return selfcheck.choose_backends(device='cpu', dtype=dtype, wanted=wanted)


def everything(name, **others):
    """The backends of a choice: name, but for others by operation."""
    return {operation: name for operation in ('selective_scan', 'ss2d', 'ssd')} | others


def raising(error):
    def function(*inputs):
        raise error
    return function


def test_golden_values_from_float64_loop():
    """Golden values come from the loop in float64."""
    made, stored = golden.make(), {case.name: case.expected for case in golden.load()}
    assert len(stored) == 10
    for name, expected in stored.items():
        torch.testing.assert_close(made[name], expected, rtol=1e-6, atol=1e-6)


def test_golden_inputs_reach_the_corners():
    cases = {case.name: case for case in golden.load()}
    assert Path(golden.PATH).stat().st_size < 200_000
    assert {case.operation for case in cases.values()} == {'ss2d', 'ssd', 'selective_scan'}
    height, width, channels = cases['ss2d fresh, N 1'].expected.shape[1:]
    assert (height % 2, width % 2) == (1, 1) and channels % 16 and height * width > 128
    assert cases['ssd trained, 2 directions'].expected.shape[1] % 64
    for name, low, high in (('fresh', 1e-3, 0.1), ('trained', 1e-2, 9)):
        delta = cases[f'ssd {name}, 1 directions'].inputs[1].float()
        assert 0.9 * low < delta.min() < 3 * low and 0.7 * high < delta.max() < 1.1 * high


@pytest.mark.parametrize('dtype', TYPES, ids=str)
def test_every_backend_of_this_machine_passes(dtype):
    usable = [name for name in scan.BACKENDS
              if selfcheck.unusable(name, device='cpu', dtype=dtype) is None]
    assert {'portable', 'reference'} <= set(usable)
    assert {name: selfcheck.check(name, device='cpu', dtype=dtype)
            for name in usable} == dict.fromkeys(usable)


def test_sound_backend_passes(monkeypatch):
    """A sound backend is taken without issues."""
    choice = choose(monkeypatch, backend())
    assert choice == selfcheck.Choice(everything('first'), ())
    assert choice.name == 'first'


@pytest.mark.parametrize('dtype, factor', [(torch.float32, 1 + 1e-3), (torch.float16, 1.01),
                                           (torch.bfloat16, 1.05)])
@pytest.mark.parametrize('operation', ['selective_scan', 'ss2d', 'ssd'])
def test_wrong_values_choose_next(monkeypatch, operation, dtype, factor):
    """Wrong values choose the next for that operation."""
    def wrong(*inputs):
        return getattr(portable, operation)(*inputs) * factor

    choice = choose(monkeypatch, backend(**{operation: wrong}), dtype=dtype)

    assert choice.backends == everything('first', **{operation: 'portable'})
    assert choice.name == f'first, {operation} portable'
    assert len(choice.problems) == 1
    assert 'scan backend first gave wrong values on the golden inputs' in choice.problems[0]
    assert operation in choice.problems[0]


@pytest.mark.parametrize('dtype', TYPES, ids=str)
def test_one_wrong_token_is_found(monkeypatch, dtype):
    def last_token_lost(*inputs):
        y = portable.ss2d(*inputs)
        y[:, -1, -1] = 0
        return y

    assert choose(monkeypatch, backend(ss2d=last_token_lost),
                  dtype=dtype).backends['ss2d'] == 'portable'


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nan_and_infinity_choose_the_next(monkeypatch, value):
    def one_nan(*inputs):
        y = portable.ssd(*inputs)
        y[0, 0, 0, 0] = value
        return y

    choice = choose(monkeypatch, backend(ssd=one_nan))

    assert choice.backends == everything('first', ssd='portable')
    assert 'NaN or infinity' in choice.problems[0]


def test_a_wrong_shape_chooses_the_next(monkeypatch):
    choice = choose(monkeypatch, backend(ss2d=lambda *inputs: portable.ss2d(*inputs)[:, :1]))
    assert choice.backends['ss2d'] == 'portable'
    assert 'gave the shape (1, 1, 15, 24)' in choice.problems[0]


@pytest.mark.parametrize('error', [ImportError('wrong ABI'), RuntimeError('no kernel image'),
                                   OSError('libcuda')])
def test_exception_chooses_next(monkeypatch, error):
    """An exception chooses the next and is kept."""
    choice = choose(monkeypatch, backend(ss2d=raising(error)))
    assert choice.backends['ss2d'] == 'portable'
    assert f'raised {type(error).__name__}' in choice.problems[0]
    assert str(error) in choice.problems[0]


def test_requested_failing_backend_replaced(monkeypatch):
    """A failing backend that was asked for is replaced too."""
    choice = choose(monkeypatch, backend(ss2d=raising(RuntimeError('no'))), wanted='first')
    assert choice.backends['ss2d'] == 'portable'
    assert len(choice.problems) == 1


def test_earlier_backends_are_not_tried(monkeypatch):
    """A backend before the one asked for is not tried."""
    choice = choose(monkeypatch, backend(ss2d=raising(RuntimeError('no'))), wanted='reference')
    assert choice == selfcheck.Choice(everything('reference'), ())


def test_unavailable_backend_passed_in_silence(monkeypatch):
    """A backend that cannot run here is passed over in silence."""
    missing = backend(unavailable=lambda: 'no GPU')
    assert choose(monkeypatch, missing) == selfcheck.Choice(everything('portable'), ())


def test_raising_probe_counts_as_unavailable(monkeypatch):
    """A probe that raises counts as not to be had."""
    broken = backend(unavailable=raising(OSError('undefined symbol')))
    assert choose(monkeypatch, broken) == selfcheck.Choice(everything('portable'), ())
    assert selfcheck.unusable('first', device='cpu',
                              dtype=torch.float32) == 'OSError: undefined symbol'


def test_requested_unavailable_is_error(monkeypatch):
    """Asking for what cannot run is an error."""
    with pytest.raises(scan.ScanError, match='no GPU'):
        choose(monkeypatch, backend(unavailable=lambda: 'no GPU'), wanted='first')
    with pytest.raises(scan.ScanError, match='first, portable, reference'):
        choose(monkeypatch, backend(), wanted='cuda')


def test_no_backend_lists_every_reason(monkeypatch):
    """Nothing that works is an error with every reason."""
    broken = {name: backend(ss2d=raising(RuntimeError(f'{name} died')))
              for name in ('first', 'second')}
    monkeypatch.setattr(scan, 'BACKENDS', broken)
    with pytest.raises(scan.ScanError, match='first died.*second died'):
        selfcheck.choose_backends(device='cpu', dtype=torch.float32)


def test_declined_input_is_no_fault(monkeypatch):
    """What a backend refuses is not held against it."""
    def refuses(u, *, states):
        return 'one state only' if states == 3 else None

    def wrong_for_three_states(*inputs):
        return portable.ss2d(*inputs) * (2 if inputs[4].shape[-1] == 3 else 1)

    assert choose(monkeypatch,
                  backend(refuses=refuses, ss2d=wrong_for_three_states)).name == 'first'


class Truncated(TorchFunctionMode):
    """Matrix products of float32 as a tensor core computes them in TF32: 13 bits of each factor
    are cut off."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
            args = [truncated(x) if x.dtype == torch.float32 else x for x in args]
        return function(*args, **(kwargs or {}))


def truncated(x):
    """Float32 with the 10 fractional bits of TF32."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def in_tf32(*inputs):
    """SSD with products in TF32."""
    with Truncated():
        return portable.ssd(*inputs)


class TestLimits:
    """Errors that the arithmetic explains pass, others do not."""

    def test_truncation_cuts_what_tf32_has_not(self):
        assert truncated(torch.tensor([1 + 2.0 ** -11]))[0] == 1
        assert truncated(torch.tensor([1 + 2.0 ** -10]))[0] == 1 + 2.0 ** -10

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_may_multiply_in_tf32(self, monkeypatch, dtype):
        assert choose(monkeypatch, backend(ssd=in_tf32), dtype=dtype).problems == ()

    def test_float32_may_not(self, monkeypatch):
        choice = choose(monkeypatch, backend(ssd=in_tf32))
        assert choice.backends == everything('first', ssd='portable')

    @pytest.mark.parametrize('dtype', TYPES, ids=str)
    def test_sound_scans_keep_a_distance(self, dtype):
        # given the errors of the portable backend in units of what is allowed
        shares = []
        for use in selfcheck.all_uses(dtype):
            for case, allowed in selfcheck._cases(use, dtype):
                found = case.run('portable', device='cpu', dtype=dtype).double()
                shares.append(((found - case.expected.double()).abs() / allowed).max().item())
        # then the largest is well below one, and in half precision not far below: the limit is no
        # loose one
        assert len(shares) == 10 and max(shares) < 0.5
        assert dtype == torch.float32 or max(shares) > 0.1

    def test_limits_follow_from_the_inputs(self):
        # given a result that is the difference of large terms, and one without such
        expected, magnitude = torch.tensor([1.0, 1.0]), torch.tensor([100.0, 1.0])
        # then the first may be off by more
        allowed = allowed_errors(expected, magnitude, steps=100, dtype=torch.float16)
        assert allowed[0] == pytest.approx(100 * (6 * 2.0 ** -11 + 464 * 2.0 ** -24) + 2.0 ** -11,
                                           rel=1e-4)
        assert allowed[1] == pytest.approx(7 * 2.0 ** -11 + 464 * 2.0 ** -24, rel=1e-4)


class TestUses:
    """Only what a network uses is checked."""

    @pytest.mark.parametrize('model, uses', [
        ('diffmf', {('ss2d', 1, 1), ('ssd', 64, 2)}),
        ('s4fusion', {('ss2d', 4, 1), ('selective_scan', 6, 1)}),
        ('refinefuse', set())])
    def test_scans_of_the_networks(self, model, uses):
        network = prepare(models.build(model, 'light'), device='cpu', dtype=torch.bfloat16)
        found = {use for use in selfcheck.uses_of(network) if use.operation in everything('')}
        assert {(use.operation, use.states, use.directions) for use in found} == uses
        assert {use.dtype for use in found} <= {torch.bfloat16}

    def test_others_are_not_run(self, monkeypatch):
        # given a backend whose ssd is wrong, and a network that has none
        wrong = backend(ssd=lambda *inputs: portable.ssd(*inputs) * 2)
        monkeypatch.setattr(scan, 'BACKENDS', {'first': wrong, 'portable': portable})
        uses = {scan.Use('ss2d', torch.float32, states=1)}
        # then it is taken
        choice = selfcheck.choose_backends(device='cpu', dtype=torch.float32, uses=uses)
        assert choice == selfcheck.Choice({'ss2d': 'first'}, ())

    def test_a_choice_decides_operation_by_operation(self, monkeypatch):
        first = backend()
        monkeypatch.setattr(scan, 'BACKENDS', {'first': first, 'portable': portable})
        u = torch.zeros(1, 1, 1, 1)
        backends = {'ss2d': 'portable', 'ssd': 'first'}
        assert scan.backend_for(u, 'ss2d', backends) is portable
        assert scan.backend_for(u, 'ssd', backends) is first


class TestPlainTorchOnAGpu:
    """It works, and is an error that nobody can miss; the device is a stand-in."""

    @pytest.fixture
    def gpu(self, monkeypatch, tmp_path):
        """Let 'cuda' be the CPU: the golden inputs stay where they are."""
        run = golden.Case.run
        monkeypatch.setattr(golden.Case, 'run',
                            lambda case, name, *, device,
                            dtype: run(case, name, device='cpu', dtype=dtype))
        monkeypatch.setattr(selfcheck, '_on', lambda device, tensor: tensor)
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
        monkeypatch.setattr(selfcheck, 'machine', lambda: 'a GPU')

    def choose(self, monkeypatch, triton, wanted='auto'):
        monkeypatch.setattr(scan, 'BACKENDS',
                            {'triton': triton, 'portable': portable, 'reference': reference})
        return selfcheck.choose_backends(device='cuda', dtype=torch.float16, wanted=wanted,
                                         uses=selfcheck.all_uses(torch.float16))

    def test_steps_between_scans_are_checked(self):
        """By itself it looks at the steps between the scans too."""
        asked = {use.operation for use in selfcheck.all_uses(torch.float16, steps=True)}
        assert asked == {*everything(''), *selfcheck_steps.OPERATIONS}
        assert asked == {*everything(''), 'interleave', *fused.OPERATIONS}

    def test_missing_backend_names_the_cost(self, gpu, monkeypatch):
        """A missing backend is named with the cost."""
        choice = self.choose(monkeypatch, backend(unavailable=lambda: 'it needs triton 3.4'))
        assert choice.name == 'portable'
        sentence, = choice.problems
        assert ('this GPU runs selective_scan, ss2d, ssd in plain torch (triton: it needs triton '
                '3.4)' in sentence)
        assert '4,800 of them and 9 ms a pair' in sentence and '10 ms instead of' in sentence

    def test_wrong_operation_leaves_others_fast(self, gpu, monkeypatch):
        """One wrong operation leaves the others fast."""
        choice = self.choose(monkeypatch, backend(ssd=lambda *inputs: portable.ssd(*inputs) * 1.1))
        assert choice.backends == everything('triton', ssd='portable')
        slow, wrong = choice.problems
        assert 'triton gave wrong values' in wrong and slow.startswith(
            'this GPU runs ssd in plain torch, which')

    def test_explicit_request_is_silent(self, gpu, monkeypatch):
        """Whoever asks for it gets it without a word."""
        assert self.choose(monkeypatch, backend(), wanted='portable').problems == ()

    def test_passes_are_remembered_failures_not(self, gpu, monkeypatch, tmp_path):
        """A pass is remembered and a failure is not."""
        # given a backend that has passed
        assert self.choose(monkeypatch, backend()).name == 'triton'
        # when it is wrong from then on, on the same machine
        broken = backend(ss2d=lambda *inputs: portable.ss2d(*inputs) * 2)
        # then nothing is run again
        assert self.choose(monkeypatch, broken).name == 'triton'
        # on another one it is
        monkeypatch.setattr(selfcheck, 'machine', lambda: 'another driver')
        assert self.choose(monkeypatch, broken).backends['ss2d'] == 'portable'
        # and there a repaired one is taken at the next start
        assert self.choose(monkeypatch, backend()).name == 'triton'
        assert (tmp_path / selfcheck.CACHE_FILE).exists()

    @pytest.mark.parametrize('content', ['', 'no json', '[]', '{"a GPU": 3}'])
    def test_a_foreign_file_is_overwritten(self, gpu, monkeypatch, content):
        selfcheck.cache_path().parent.mkdir()
        selfcheck.cache_path().write_text(content)
        assert self.choose(monkeypatch, backend()).problems == ()
        assert ('triton ss2d torch.float16 1 states 1 directions, layers torch.float16'
                in selfcheck.known_checks())

    def test_unwritable_folder_is_harmless(self, gpu, monkeypatch, tmp_path):
        """A folder that cannot be written does no harm."""
        (tmp_path / 'file').write_text('')
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
        assert self.choose(monkeypatch, backend()).problems == ()


def test_verdict_key_names_dependencies(monkeypatch, tmp_path):
    """The key of a verdict names everything it depends on."""
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'H200')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (9, 0))
    driver = tmp_path / 'version'
    driver.write_text('NVRM version: 580.65\nGCC version: 13')
    monkeypatch.setattr(selfcheck, 'DRIVER', driver)
    key = selfcheck.machine.__wrapped__()
    assert key.startswith(f'H200 (9, 0); NVRM version: 580.65; torch {torch.__version__}, triton ')
    assert 'GCC' not in key
    monkeypatch.setattr(selfcheck, '_source_hash', lambda: 'other')
    assert selfcheck.machine.__wrapped__() != key


class TestSteps:
    """The steps between the scans are held to the same kind of limit."""

    @pytest.mark.parametrize('features, layers', [
        (torch.float16, torch.float16), (torch.float32, torch.float16),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16)])
    @pytest.mark.parametrize('operation', selfcheck_steps.OPERATIONS)
    def test_plain_torch_keeps_a_distance(self, operation, features, layers):
        kind = torch.float32 if operation in selfcheck_steps.PIXELS else features
        for step in selfcheck_steps.cases(operation, kind, layers):
            found = step.run('portable', device='cpu', dtype=kind)
            assert ((found - step.expected).abs() / step.allowed(layers)).max() < 0.5

    @pytest.mark.parametrize('operation', selfcheck_steps.OPERATIONS)
    def test_a_wrong_value_is_found(self, operation, monkeypatch):
        # given a backend that loses one value of the first result
        def wrong(*inputs):
            results = getattr(portable, operation)(*inputs)
            first = results if isinstance(results, torch.Tensor) else results[0]
            first.view(-1)[first.abs().argmax()] = 0
            return results

        first = SimpleNamespace(unavailable=lambda: None, refuses=lambda u, *, states: None,
                                **{operation: wrong})
        monkeypatch.setattr(scan, 'BACKENDS', {'first': first, 'portable': portable})
        kind = torch.float32 if operation in selfcheck_steps.PIXELS else torch.float16
        choice = selfcheck.choose_backends(device='cpu', dtype=torch.float16,
                                           uses={scan.Use(operation, kind)})
        # then it is not used for that operation
        assert choice.backends == {operation: 'portable'}
        assert f'is not used for {operation}' in choice.failures[0]


@pytest.mark.slow
def test_triton_passes_in_interpreter():
    """The Triton kernels pass in the interpreter."""
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(Path(__file__).with_name('selfcheck_cases.py'), TRITON_INTERPRET='1')
