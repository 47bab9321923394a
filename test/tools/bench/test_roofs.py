# SPDX-License-Identifier: Apache-2.0
"""Work of a network is counted right, and the floor follows from it and the measured rates."""

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.blocks import SS2D, SSDMixer, TokenConv2d  # noqa: E402
from diffmf_ros.models.refinefuse import CrossAttention  # noqa: E402
from diffmf_ros.models.s4fusion import CrossModalSS2D  # noqa: E402
from diffmf_ros.tools.bench import roofs  # noqa: E402
from diffmf_ros.tools.bench.roofs import Roofs, Work, count, work_of_preset  # noqa: E402


class TwoImages(torch.nn.Module):
    """Feeds the first of two images to a function of layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layers = torch.nn.ModuleDict(layers)
        self._forward = forward

    def forward(self, ir, vi_y):
        return self._forward(self.layers, ir)


def test_a_convolution_and_a_linear_layer():
    # given a 3x3 convolution from 1 to 8 channels with stride 2, then a linear layer from 8 to 5
    with torch.device('meta'):
        network = TwoImages(lambda layers,
                            x: layers['linear'](layers['conv'](x.permute(0, 2, 3, 1))),
                            conv=TokenConv2d(1, 8, 3, stride=2, padding=1),
                            linear=torch.nn.Linear(8, 5, bias=False))
    # when it is counted on 6x10
    work = count(network, 6, 10)
    # then each of 3x5 tokens takes 8 x 9 and 5 x 8 multiply-adds
    assert work.operations == 2 * 15 * (8 * 9 + 5 * 8)
    assert work.features == (60 + 15 * 8) + (15 * 8 + 15 * 5)
    assert work.parameters == 8 * 9 + 8 + 40
    assert work.elements == work.features + work.parameters


def test_depthwise_convolution_one_channel():
    """A depthwise convolution sees one channel each."""
    with torch.device('meta'):
        network = TwoImages(lambda layers, x: layers['conv'](x.expand(1, 4, 6, 10)),
                            conv=torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False))
    assert count(network, 6, 10) == Work(2 * 60 * 4 * 9, 240 + 240, 36)


def test_a_four_direction_scan():
    # given SS2D from 16 channels: 32 inner channels, one state, rank 1, 4 x (1 + 2) values a token
    with torch.device('meta'):
        network = TwoImages(lambda layers,
                            x: layers['ss2d'](x.permute(0, 2, 3, 1).expand(1, 6, 10, 16)),
                            ss2d=SS2D(16))
    layers = Work(2 * 60 * (32 * 16 + 32 * 9 + 12 * 32 + 16 * 32),
                  60 * (16 + 32 + 32 + 32 + 32 + 12 + 32 + 16), 512 + 288 + 384 + 512)
    # then the scan adds 9 operations a state, 1 for the skip and 2 a rank, per token, channel and
    # direction
    assert count(network, 6, 10) == layers + Work(4 * 60 * 32 * (9 + 1 + 2),
                                                  60 * (2 * 4 * 32 + 12))


def test_a_two_direction_ssd():
    # given a mixer from 16 channels: 32 inner channels in 2 heads, 8 states
    def forward(layers, x):
        mixer = layers['mixer']
        x, delta, z, B, C = mixer.project(x.permute(0, 2, 3, 1).expand(1, 6, 10, 16))
        y = scan.ssd(*mixer.sequence(x, delta, B, C), directions=mixer.directions)
        return mixer.finish(y, x, z)

    with torch.device('meta'):
        network = TwoImages(forward, mixer=SSDMixer(16, states=8, head=16, directions=2))
    width = 32 + (32 + 16) + 2
    layers = Work(2 * 60 * (16 * width + 48 * 9 + 32 * 16),
                  60 * (16 + width + 48 + 48 + 32 + 16), 16 * width + 48 * 9 + 48 + 512)
    assert count(network, 6, 10) == layers + Work(2 * 60 * 32 * (9 * 8 + 1),
                                                  60 * (2 * 2 * 32 + 16 + 2))


def test_scan_of_two_images():
    """A scan through the tokens of two images."""
    # given the cross-modal scan of 16 channels: 24 inner channels, 3 states, rank 1, 4 x (1 + 6)
    # values a token
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = CrossModalSS2D(16, states=3, gate=True, conv_bias=True, expand=1.5)

        def forward(self, ir, vi_y):
            return self.block(*(x.permute(0, 2, 3, 1).expand(1, 6, 10, 16) for x in (ir, vi_y)))

    with torch.device('meta'):
        work = count(Network(), 6, 10)
    # then the layers see 120 tokens, the mark 60 places, and the scan takes turns through 120
    # tokens
    layers = 120 * (48 * 16 + 24 * 9 + 28 * 24 + 16 * 24) + 60 * 48 * 24
    assert work.operations == 2 * layers + 4 * 120 * 24 * (9 * 3 + 1 + 2)
    assert work.parameters == 768 + (216 + 24) + 2 * 28 * 24 + 48 * 24 + 384


def test_attention_is_quadratic_in_the_pixels():
    # given attention of 32 channels with keys for every 2x2 places, seen on 4x6 places
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ask = CrossAttention(32, 2)

        def forward(self, ir, vi_y):
            return self.ask(ir.expand(1, 32, -1, -1).flatten(2).mT, vi_y.expand(1, 32, -1, -1))

    with torch.device('meta'):
        work = count(Network(), 4, 6)
    # then 24 queries meet 6 keys, with 32 multiply-adds each for the score and for the sum
    layers = 24 * 32 * 32 + 6 * 32 * 4 + 6 * 64 * 32 + 24 * 32 * 32
    assert work.operations == 2 * (layers + 2 * 24 * 6 * 32)


@pytest.mark.parametrize('model, preset, multiply_adds', [
    ('diffmf', 'light', 29.6e9), ('diffmf', 'base', 153e9), ('refinefuse', 'base', 160e9),
    ('s4fusion', 'base', 24.3e9)])
def test_presets_take_what_the_documentation_says(model, preset, multiply_adds):
    assert work_of_preset(model, preset, (640, 480)).operations / 2 == pytest.approx(
        multiply_adds, rel=0.02)


def test_work_follows_network_pixels():
    """Work follows the pixels that the network sees."""
    small, large = (work_of_preset('diffmf', 'light', size) for size in ((320, 240), (640, 480)))
    # but for one pooled layer
    assert large.operations == pytest.approx(4 * small.operations, rel=1e-3)
    assert work_of_preset('diffmf', 'light', (640, 480), scale=0.5) == small
    assert work_of_preset('diffmf', 'light', (633, 475)) == large  # padded to multiples of 8
    assert work_of_preset('s4fusion', 'light',
                          (640, 480)) == work_of_preset('s4fusion', 'light', (649, 481))


def test_floor_is_the_slower():
    """The floor is the slower of the two."""
    roof = Roofs('cpu', 'bfloat16', operations_per_s=100e9, bytes_per_s=20e9, element_bytes=2)
    assert roof.floor_ms(Work(operations=1e9, features=1e6)) == pytest.approx(10)
    assert roof.floor_ms(Work(operations=1e6, features=1e9)) == pytest.approx(100)


def test_rates_from_best_round(monkeypatch):
    """Rates come from the best of the rounds."""
    # given a clock under which the products take 3, 2, 4 ... s and the copies 1, 5, 5 ... s
    monkeypatch.setattr(roofs, 'ROUNDS', 3)
    monkeypatch.setitem(roofs.MATRIX_SIDE, 'cpu', 10)
    monkeypatch.setitem(roofs.COPY_BYTES, 'cpu', 1000)
    ticks = iter([0, 3, 10, 12, 20, 24, 30, 31, 40, 45, 50, 55])
    monkeypatch.setattr(roofs.time, 'perf_counter', lambda: next(ticks))
    roof = roofs.measure_roofs('cpu', torch.bfloat16)
    assert (roof.operations_per_s, roof.bytes_per_s) == (2 * 10 ** 3 / 2, 2 * 1000 / 1)
    assert (roof.device, roof.dtype, roof.element_bytes) == ('cpu', 'bfloat16', 2)
