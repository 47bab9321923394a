# SPDX-License-Identifier: Apache-2.0
"""A scan backend that is wrong on this machine is found before a network uses it, and the next one is taken."""

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.inference import golden, selfcheck  # noqa: E402
from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import portable, reference  # noqa: E402

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def backend(**functions):
    """The portable backend with some of its functions replaced."""
    names = ('unavailable', 'refuses', 'selective_scan', 'ss2d', 'ssd')
    return SimpleNamespace(**{name: getattr(portable, name) for name in names} | functions)


def choose(monkeypatch, first, *, wanted='auto', dtype=torch.float32):
    """Choose among a backend called first, the portable one and the loop."""
    monkeypatch.setattr(scan, 'BACKENDS', {'first': first, 'portable': portable, 'reference': reference})
    return selfcheck.choose_backend(device='cpu', dtype=dtype, wanted=wanted)


def raising(error):
    def function(*inputs):
        raise error
    return function


def test_golden_values_come_from_the_loop_in_float64():
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
    usable = [name for name in scan.BACKENDS if selfcheck.unusable(name, device='cpu', dtype=dtype) is None]
    assert {'portable', 'reference'} <= set(usable)
    assert {name: selfcheck.check(name, device='cpu', dtype=dtype) for name in usable} == dict.fromkeys(usable)


def test_a_sound_backend_is_taken_without_problems(monkeypatch):
    assert choose(monkeypatch, backend()) == selfcheck.Choice('first', ())


@pytest.mark.parametrize('dtype, factor', [(torch.float32, 1 + 1e-3), (torch.float16, 1.01), (torch.bfloat16, 1.05)])
@pytest.mark.parametrize('operation', ['selective_scan', 'ss2d', 'ssd'])
def test_wrong_values_choose_the_next(monkeypatch, operation, dtype, factor):
    def wrong(*inputs):
        return getattr(portable, operation)(*inputs) * factor

    choice = choose(monkeypatch, backend(**{operation: wrong}), dtype=dtype)

    assert choice.name == 'portable'
    assert len(choice.problems) == 1
    assert 'scan backend first gave wrong values on the golden inputs' in choice.problems[0]
    assert operation in choice.problems[0]


@pytest.mark.parametrize('dtype', TYPES, ids=str)
def test_one_wrong_token_is_found(monkeypatch, dtype):
    def last_token_lost(*inputs):
        y = portable.ss2d(*inputs)
        y[:, -1, -1] = 0
        return y

    assert choose(monkeypatch, backend(ss2d=last_token_lost), dtype=dtype).name == 'portable'


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nan_and_infinity_choose_the_next(monkeypatch, value):
    def one_nan(*inputs):
        y = portable.ssd(*inputs)
        y[0, 0, 0, 0] = value
        return y

    choice = choose(monkeypatch, backend(ssd=one_nan))

    assert choice.name == 'portable'
    assert 'NaN or infinity' in choice.problems[0]


def test_a_wrong_shape_chooses_the_next(monkeypatch):
    choice = choose(monkeypatch, backend(ss2d=lambda *inputs: portable.ss2d(*inputs)[:, :1]))
    assert choice.name == 'portable'
    assert 'gave the shape (1, 1, 15, 24)' in choice.problems[0]


@pytest.mark.parametrize('error', [ImportError('wrong ABI'), RuntimeError('no kernel image'), OSError('libcuda')])
def test_an_exception_chooses_the_next_and_is_kept(monkeypatch, error):
    choice = choose(monkeypatch, backend(ss2d=raising(error)))
    assert choice.name == 'portable'
    assert f'raised {type(error).__name__}' in choice.problems[0]
    assert str(error) in choice.problems[0]


def test_a_failing_backend_that_was_asked_for_is_replaced_too(monkeypatch):
    choice = choose(monkeypatch, backend(ss2d=raising(RuntimeError('no'))), wanted='first')
    assert choice.name == 'portable'
    assert len(choice.problems) == 1


def test_a_backend_before_the_one_asked_for_is_not_tried(monkeypatch):
    choice = choose(monkeypatch, backend(ss2d=raising(RuntimeError('no'))), wanted='reference')
    assert choice == selfcheck.Choice('reference', ())


def test_a_backend_that_cannot_run_here_is_passed_over_in_silence(monkeypatch):
    assert choose(monkeypatch, backend(unavailable=lambda: 'no GPU')) == selfcheck.Choice('portable', ())


def test_a_probe_that_raises_counts_as_not_to_be_had(monkeypatch):
    broken = backend(unavailable=raising(OSError('undefined symbol')))
    assert choose(monkeypatch, broken) == selfcheck.Choice('portable', ())
    assert selfcheck.unusable('first', device='cpu', dtype=torch.float32) == 'OSError: undefined symbol'


def test_asking_for_what_cannot_run_is_an_error(monkeypatch):
    with pytest.raises(scan.ScanError, match='no GPU'):
        choose(monkeypatch, backend(unavailable=lambda: 'no GPU'), wanted='first')
    with pytest.raises(scan.ScanError, match='first, portable, reference'):
        choose(monkeypatch, backend(), wanted='cuda')


def test_nothing_that_works_is_an_error_with_every_reason(monkeypatch):
    broken = {name: backend(ss2d=raising(RuntimeError(f'{name} died'))) for name in ('first', 'second')}
    monkeypatch.setattr(scan, 'BACKENDS', broken)
    with pytest.raises(scan.ScanError, match='first died.*second died'):
        selfcheck.choose_backend(device='cpu', dtype=torch.float32)


def test_what_a_backend_refuses_is_not_held_against_it(monkeypatch):
    def refuses(u, *, states):
        return 'one state only' if states == 3 else None

    def wrong_for_three_states(*inputs):
        return portable.ss2d(*inputs) * (2 if inputs[4].shape[-1] == 3 else 1)

    assert choose(monkeypatch, backend(refuses=refuses, ss2d=wrong_for_three_states)).name == 'first'
