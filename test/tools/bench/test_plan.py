# SPDX-License-Identifier: Apache-2.0
"""What a network would launch and move on a GPU is counted without one, and stays within budgets.

TODAY holds what the networks need at present. A change that needs fewer launches lowers its figure
here; one that needs more fails. The launches aimed at stand in `plan.KERNELS_AIMED_AT`.
"""

import json

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')
pytest.importorskip('triton', reason='triton is not installed')

from typer.testing import CliRunner  # noqa: E402

from diffmf_ros.cli.main import application  # noqa: E402
from diffmf_ros.inference.engine import use_backend  # noqa: E402
from diffmf_ros.models import fused, scan  # noqa: E402
from diffmf_ros.models.blocks import TokenConv2d  # noqa: E402
from diffmf_ros.models.diffmf import network as diffmf  # noqa: E402
from diffmf_ros.models.kernels import triton_scan  # noqa: E402
from diffmf_ros.tools.bench import plan as planning  # noqa: E402
from diffmf_ros.tools.bench.plan import plan_step  # noqa: E402
from diffmf_ros.tools.bench.plan_operations import (  # noqa: E402
    GPUS,
    H200,
    Kernel,
)
from diffmf_ros.tools.bench.plan_recorder import record  # noqa: E402

# Launches of a 640x480 pair, and bytes over those of layers that read and write once, at most.
TODAY = {'diffmf base': (205, 0.9), 'diffmf light': (169, 1.1), 'diffmf light-s4': (169, 1.3),
         'diffmf nano': (147, 1.6), 's4fusion base': (244, 2.8), 's4fusion light': (182, 2.4),
         'refinefuse base': (146, 2.8), 'refinefuse light': (146, 2.9)}
# Median milliseconds of the scans on an H200: (channels, states, tokens) of four sequences.
SCANS_MS = {(4, 128, 1, 76_800): 0.147, (4, 128, 1, 153_600): 0.260, (4, 64, 16, 19_200): 0.143,
            (1, 64, 16, 307_200): 0.403, (4, 64, 16, 307_200): 1.135}
IMAGES_MS = {('triton', 64): 0.094, ('triton', 128): 0.221, ('portable', 64): 9.7}


@pytest.fixture(scope='module')
def plans():
    """The plans of a 640x480 pair, each network once."""
    return {name: planning.plan_pair(*name.split()) for name in TODAY}


def on_meta(*shape, dtype=torch.float16):
    """A tensor without values."""
    return torch.empty(shape, dtype=dtype, device='meta')


def bench(*options):
    """Run `diffmf bench --plan` with options."""
    return CliRunner().invoke(application(), ['bench', '--plan', *map(str, options)])


def recorded(function, *arguments):
    """(name, bytes read, bytes written) of each kernel."""
    return [(k.name, k.bytes_read, k.bytes_written) for k in record(function, *arguments)]


class TestCosts:
    """Of single operations."""

    def test_views_and_allocations_launch_nothing(self):
        x = on_meta(4, 6)
        views = record(lambda: (x.T, x[1:], x.unflatten(1, (2, 3)), x.chunk(2)))
        assert views == record(lambda: torch.empty_like(x)) == []

    def test_elementwise_reads_and_writes_once(self):
        """Element wise operations read and write once."""
        x, row = on_meta(4, 6), on_meta(6)
        assert recorded(lambda: x + row) == [('add', 48 + 12, 48)]
        assert recorded(lambda: x.add_(1)) == [('add_', 48, 48)]
        assert recorded(lambda: x.copy_(row)) == [('copy_', 12, 48)]
        assert recorded(lambda: x + row.expand(4, 6)) == [('add', 48 + 12, 48)]

    def test_a_linear_layer_is_a_product(self):
        kernel, = record(lambda: torch.nn.functional.linear(on_meta(5, 4, 8), on_meta(3, 8)))
        assert (kernel.name, kernel.operations) == ('mm', 2 * 20 * 8 * 3)
        assert (kernel.bytes_read, kernel.bytes_written) == (2 * (160 + 24), 2 * 60)
        assert not kernel.exact

    def test_convolution_bias_has_own_kernel(self):
        """A convolution adds its bias in a kernel of its own."""
        x, weight, bias = on_meta(1, 4, 6, 6), on_meta(8, 4, 3, 3), on_meta(8)
        convolution, added = record(lambda: torch.nn.functional.conv2d(x, weight, bias, padding=1))
        assert convolution.operations == 2 * 8 * 36 * 36
        assert (added.name, added.bytes_moved) == ('bias', 2 * 2 * 8 * 36)

    def test_channels_last_stays(self):
        # given a convolution whose weight alone is channels-last, as the networks' are on a GPU
        x = on_meta(1, 4, 6, 6)
        weight = on_meta(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
        # when it runs, its input is copied, and its output needs no copy to become tokens
        conv2d = torch.nn.functional.conv2d
        kernels = record(lambda: conv2d(x, weight).permute(0, 2, 3, 1).flatten())
        assert [k.name for k in kernels] == ['layout copy', 'convolution']

    def test_exponentials_are_those_of_the_output(self):
        kernel, = record(lambda: on_meta(4, 6).sigmoid())
        assert kernel.exponentials == 24

    def test_waiting_for_value_is_error(self):
        """Waiting for a value is an error."""
        with pytest.raises(RuntimeError, match='meta'):
            record(lambda: on_meta(3).sum().item())

    def test_host_tensors_are_not_counted(self):
        assert record(lambda: torch.ones(3) + 1) == []

    def test_gradients_of_a_layer(self):
        weight = on_meta(3, 8).requires_grad_()
        names = [k.name for k in record(lambda: (on_meta(4, 8) @ weight.T).sum().backward())]
        assert names.count('mm') == 2  # forward, and the gradient of the weight


class TestLaunches:
    """Of Triton kernels, which are not run."""

    @pytest.mark.parametrize('states, names', [
        (1, ['chunk_states', 'carry', 'tile_outputs']),
        (2, ['chunk_states', 'carry', 'outputs', 'outputs']),
    ])
    def test_launches_of_image_scan(self, states, names):
        """A scan of an image is three launches, of several states four."""
        # given an image of 6 x 8 tokens of 32 channels
        u, proj = on_meta(1, 6, 8, 32), on_meta(1, 6, 8, 4, 2 + 2 * states)
        shapes = (4, 32, 2), (4, 32), (4, 32, states), (4, 32)
        parameters = [on_meta(*shape, dtype=torch.float32) for shape in shapes]
        # when it is scanned
        kernels = record(lambda: scan.ss2d(u, proj, *parameters, backend='triton'))
        # then the first kernel reads it and writes states, and the last write the output
        assert [k.name for k in kernels] == names
        tokens, records = 6 * 8 * 32, 2 * 48 * 4 * (2 + 2 * states)
        assert kernels[0].bytes_read == 2 * tokens + records + 4 * 4 * (2 + 1 + states) * 32
        assert kernels[0].units == int(4 * tokens * (1 + 0.28 * (states - 1) + 0.2))
        # float32 sums stay in the cache of a tile, or go from the rows to the columns
        assert [k.bytes_written for k in kernels[2:]] == [4 * tokens + 2 * tokens] if states == 1 \
            else [4 * tokens, 4 * tokens + 2 * tokens]
        between = kernels[-1].bytes_read - kernels[2].bytes_read
        assert between == (0 if states == 1 else 4 * tokens)
        assert all(k.exponentials for k in kernels)

    def test_products_are_counted_once(self):
        """A matrix that stands for None under other names is multiplied once."""
        # given a linear layer of 24 tokens without norm, bias, scale and gate, and a convolution
        x, layer = on_meta(2, 3, 4, 16), torch.nn.Linear(16, 8, bias=False, device='meta').half()
        dense = TokenConv2d(16, 8, 3, padding=1, device='meta').half()
        # when they run fused, then each has the multiply-adds of its weight for every token
        with torch.no_grad():
            kernels = record(lambda: (fused.norm_linear(x, None, layer, backend='triton'),
                                      fused.conv(x, dense, backend='triton')))
        assert [k.operations for k in kernels] == [2 * 24 * 16 * 8, 2 * 24 * 16 * 8 * 9]

    def test_products_of_ssd(self):
        """SSD in half precision multiplies in TF32, at half the rate."""
        # given 64 tokens of one head, 16 channels and 16 states, in one direction
        x, delta, B = on_meta(1, 64, 1, 16), on_meta(1, 64, 1), on_meta(1, 64, 16)
        A = on_meta(1, dtype=torch.float32)
        # when it runs, then the states take one product a token, the output three more of which
        # two have the 32 tokens of a chunk in place of the states
        kernels = record(lambda: scan.ssd(x, delta, A, B, B, directions=1, backend='triton'))
        of_states, of_output = kernels[0].operations, kernels[2].operations
        assert of_states == 2 * 2 * 64 * 16 * 16
        assert of_output == of_states * (1 + 1 + 2 + 2)

    def test_walks_end_with_the_line(self):
        """A chunk that is longer than rows and columns is walked to their end."""
        u, proj = on_meta(1, 20, 24, 8), on_meta(1, 20, 24, 4, 33)
        shapes = (4, 8, 1), (4, 8), (4, 8, 16), (4, 8)
        parameters = [on_meta(*shape, dtype=torch.float32) for shape in shapes]
        kernels = record(lambda: scan.ss2d(u, proj, *parameters, backend='triton'))
        assert [k.serial for k in kernels] == [24, 0, 48, 48]

    def test_nothing_stays_changed(self):
        record(lambda: None)
        assert scan.backend_for(on_meta(1, 1, 1, 1), 'ss2d').__name__.endswith('meta')


@pytest.mark.slow
class TestAgainstMeasurements:
    """Of an H200: the model of the times is right within a third, for what was measured."""

    @pytest.mark.parametrize('shape', SCANS_MS)
    def test_scans_of_sequences(self, shape):
        batch, channels, states, length = shape
        u, delta = (on_meta(batch, length, channels).mT for _ in range(2))
        B, C = (on_meta(batch, length, 1, states).permute(0, 2, 3, 1) for _ in range(2))
        A = on_meta(channels, states, dtype=torch.float32)
        D, bias = (on_meta(channels, dtype=torch.float32) for _ in range(2))
        kernels = record(lambda: scan.selective_scan(u, delta, A, B, C, D, bias, True,
                                                     backend='triton'))
        assert H200.replay_ms(kernels) == pytest.approx(SCANS_MS[shape], rel=0.3)

    @pytest.mark.parametrize('backend, channels', IMAGES_MS)
    def test_scans_of_images(self, backend, channels):
        rank = channels // 32
        u, proj = on_meta(1, 240, 320, channels), on_meta(1, 240, 320, 4, rank + 2)
        shapes = (4, channels, rank), (4, channels), (4, channels, 1), (4, channels)
        parameters = [on_meta(*shape, dtype=torch.float32) for shape in shapes]
        if backend == 'triton':  # as it was measured, rows and columns one after the other
            kernels = record(lambda: triton_scan.scan_image(u, proj, *parameters))
        else:
            with torch.inference_mode():
                kernels = record(lambda: scan.ss2d(u, proj, *parameters, backend=backend))
        assert H200.replay_ms(kernels) == pytest.approx(IMAGES_MS[backend, channels], rel=0.3)

    def test_whole_pair_with_chunk_loop(self):
        """A whole pair with a loop over chunks."""
        # given `light` as it was measured: painting, nothing but SS2D fused
        with torch.device('meta'):
            network = diffmf(width=32, depth=1, mlp_ratio=2.0, mixing=False)
        planning.prepare(network, precision='float16', scan_backend='triton')
        plain = 'ssd', 'norm_linear', 'mlp', 'depthwise', 'depthwise_records'
        use_backend(network, {'ss2d': 'triton'} | dict.fromkeys(plain, 'portable'))
        # when its kernels are counted, then they are those 5,567 that took 24.7 ms, 27.0 replayed
        kernels = planning.pair_kernels(network, (640, 480))
        assert len(kernels) == pytest.approx(5567, rel=0.3)
        assert H200.kernels_ms(kernels) == pytest.approx(24.7, rel=0.3)
        assert H200.replay_ms(kernels) == pytest.approx(27.0, rel=0.3)


@pytest.mark.slow
class TestBudgets:
    """Held for every network of the package."""

    @pytest.mark.parametrize('name', TODAY)
    def test_launches_and_bytes(self, plans, name):
        plan, (launches, times_fused) = plans[name], TODAY[name]
        assert len(plan.kernels) <= launches
        assert (plan.bytes_read + plan.bytes_written) / plan.fused_bytes <= times_fused

    @pytest.mark.parametrize('name', ['diffmf light', 's4fusion light', 'refinefuse light'])
    def test_no_loop_over_the_length(self, plans, name):
        # a quarter of the pixels needs the same launches
        smaller = planning.plan_pair(*name.split(), (320, 240))
        assert len(smaller.kernels) == len(plans[name].kernels)

    @pytest.mark.parametrize('name, launches', [('refinefuse light', 1085), ('diffmf base', 1446)])
    def test_a_training_step(self, name, launches):
        assert len(plan_step(*name.split(), batch=2, crop=64).kernels) <= launches


class TestReport:
    """What `diffmf bench --plan` shows."""

    def test_times_follow_from_the_rates(self):
        # given a kernel that moves 2.7 GB and 999 that do next to nothing
        kernels = [Kernel('copy_', 27 * 10 ** 8, 0), *[Kernel('add', 8, 4)] * 999]
        plan = planning.WorkPlan('a net', 'pair', kernels)
        # then the H200 needs 1 ms, 1.9 us for each of the others, and 0.4 us between two
        assert plan.times_ms(H200)['predicted_ms'] == pytest.approx(1 + 0.999 * 1.9 + 0.4)
        assert plan.times_ms(H200)['launched_singly_ms'] == pytest.approx(15)
        others = [plan.times_ms(gpu)['launched_singly_ms'] for gpu in GPUS if not gpu.measured]
        assert others == [None] * 3

    def test_table_and_json(self, tmp_path):
        path = tmp_path / 'plan.json'
        done = bench('--model', 'refinefuse', '--preset', 'light', '--size', '320x240',
                     '--json', path)
        assert done.exit_code == 0, done.output
        for text in ('refinefuse light', 'pair 320x240', 'step 12 x'):
            assert text in done.output
        pair, step = json.loads(path.read_text())['plans']
        assert pair['kernels'] <= TODAY['refinefuse light'][0] and pair['goal'] == 400
        assert set(pair['gpus']) == {'H200', 'RTX 4090', 'AGX Thor', 'AGX Orin 64 GB'}
        assert step['by_kind']['convolution']['launches'] > 0

    def test_machine_options_are_refused(self):
        """Options that need a machine are refused."""
        done = bench('--frames', 3)
        assert done.exit_code == 2 and 'not with --plan: --frames' in done.output

    def test_other_backends_are_refused(self):
        with pytest.raises(planning.PlanError, match="triton or portable, not 'cpu'"):
            planning.plan_pair('diffmf', 'nano', scan_backend='cpu')
