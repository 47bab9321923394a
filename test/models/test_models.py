# SPDX-License-Identifier: Apache-2.0
"""What all networks have in common, and DIFF-MF.

Sizes, layouts of its scans, symmetries, and that all of it learns.
"""

from dataclasses import replace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.inference.engine import prepare  # noqa: E402
from diffmf_ros.models import fused  # noqa: E402
from diffmf_ros.models.blocks import PixelConv2d, VSSBlock  # noqa: E402
from diffmf_ros.models.diffmf import (  # noqa: E402
    ChannelExchange,
    DifferenceGuidedRound,
    DiffMF,
    DiffMFConfig,
    separate_columns,
)
from diffmf_ros.models.kernels.composed import scan_order  # noqa: E402
from diffmf_ros.models.mixing import mix  # noqa: E402

pytestmark = pytest.mark.slow

# in float32
KEPT = ('A_log', 'A_logs', 'dt_bias', 'dt_projs_bias', 'dt_projs_weight', 'skip', 'Ds',
        'norm.weight')
TINY = DiffMFConfig(width=8, rounds=1, depth=1, mlp_ratio=1.0, ssd_states=4, ssd_head=8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(height=24, width=32, batch=2):
    return torch.rand(2, batch, 1, height, width).unbind()


@pytest.mark.parametrize('preset, parameters',
                         [('nano', 98_326), ('light', 336_200), ('base', 1_840_268)])
def test_presets_have_the_specified_size(preset, parameters):
    network = models.build('diffmf', preset)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_output_has_input_size():
    """Output has the size of the input."""
    assert DiffMF(TINY)(*images()).shape == (2, 1, 24, 32)


def test_unfit_sides_name_the_multiple():
    """Sides that do not fit are refused with the multiple."""
    with pytest.raises(ValueError, match='a multiple of 8 pixels'):
        DiffMF(TINY)(*images(height=20))


EVERY = [(model, preset) for model, presets in models.PRESETS.items() for preset in presets]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('model, preset', EVERY)
def test_half_precision_stays_near_float32(model, preset, dtype):
    """Half precision runs through every layer and stays near float32."""
    # Given the scan that takes every type,
    network = models.build(model, preset)
    side = network.sides.padded(32)
    pair = images(side, side, batch=1)
    with torch.inference_mode():
        plain = prepare(network, device='cpu', dtype=torch.float32, scan_backend='portable')
        expected, expected_maps = plain(*pair), plain.maps(*pair)
        # when convolutions and linear layers compute in dtype,
        rounded = prepare(network, device='cpu', dtype=dtype, scan_backend='portable')
        found, found_maps = rounded(*pair), rounded.maps(*pair)
    # then the image is float32 and what it is mixed from a few roundings of its own size away.
    assert found.dtype == torch.float32 == found_maps.dtype
    rounding = torch.finfo(dtype).eps * expected_maps.std(dim=(0, 2, 3)).mean()
    errors = (found_maps - expected_maps).abs()
    assert 0 < errors.mean() < 3 * rounding
    assert errors.max() < 20 * rounding
    assert not torch.equal(found, expected)
    assert all(p.dtype == torch.float32 for name, p in network.named_parameters()
               if name.endswith(KEPT))


@pytest.mark.parametrize('dtype, stream', [(torch.float16, torch.float16),
                                           (torch.bfloat16, torch.float32)], ids=str)
def test_residual_stream_half_in_float16(dtype, stream):
    """The features that every block adds to are float16 with such layers, float32 otherwise."""
    seen = []
    for model in ('diffmf', 's4fusion'):
        with torch.device('meta'):
            network = prepare(models.build(model, 'light'), device='meta', dtype=dtype,
                              scan_backend='portable')
            blocks = [block for block in network.modules() if isinstance(block, VSSBlock)]
            for block in blocks:
                block.register_forward_hook(lambda _, x, y: seen.append((x[0].dtype, y.dtype)))
            side = network.sides.padded(32)
            assert network(*torch.zeros(2, 1, 1, side, side)).dtype == torch.float32
    # a scan of the spatial exchange begins behind a layer
    assert set(seen) - {(dtype, dtype)} <= {(stream, stream)}
    assert (stream, stream) in seen


@pytest.mark.parametrize('model, preset', EVERY)
def test_every_network_is_called_alike(model, preset):
    with torch.device('meta'):
        network = models.build(model, preset)
        height, width = network.sides.padded(40), network.sides.padded(70)
        assert network(*torch.zeros(2, 3, 1, height, width)).shape == (3, 1, height, width)
        maps = network.maps(*torch.zeros(2, 3, 1, height, width))
    paints = (model, preset) == ('s4fusion', 'base')
    assert network.mixing is not paints
    assert maps.shape == (3, 1 if paints else 4, height, width)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match='diffmf base, diffmf light, diffmf light-s4, diffmf '
                       'nano, s4fusion base, s4'):
        models.build('diffmf', 'huge')


@pytest.mark.parametrize('config',
                         [TINY, DiffMFConfig(width=8, rounds=2, depth=1, mlp_ratio=0, states=3,
                                             gate=True,
                                                       ssd_states=4, ssd_head=4, ssd_directions=1,
                                                       levels=2)])
def test_every_parameter_gets_a_gradient(config):
    network = DiffMF(config)
    for extraction in network.rounds:  # it starts at zero, which hides what is before it
        torch.nn.init.normal_(extraction.guide[1].weight)
    network(*images()).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None
              or not p.grad.abs().sum() > 0]
    assert silent == []


def test_batch_images_are_independent():
    """An image of the batch does not see the others."""
    network, (ir, vi) = DiffMF(TINY).eval(), images(batch=3)
    together = network(ir, vi)
    alone = torch.cat([network(ir[i:i + 1], vi[i:i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def scanned(layout):
    """The four sequences of a layout of labels, as SS2D's directions visit it."""
    labels = [label for row in layout for label in row]
    return [' '.join(labels[i] for i in order)
            for order in scan_order(len(layout), len(layout[0])).tolist()]


def numbered(x):
    """Label the tokens of a 1 x H x W x 1 map whose values are 1..4 for infrared, 11..14 for
    visible."""
    return [[f'v{int(v) - 10}' if v > 10 else f'i{int(v)}' for v in row]
            for row in x[0, :, :, 0].tolist()]


def test_scan_layouts_follow_authors():
    """Column and row layouts scan as in the authors' figure."""
    ir = torch.tensor([[1.0, 2], [3, 4]])[None, ..., None]
    columns = scanned(numbered(fused.pair(ir, ir + 10, 'columns')))
    rows = scanned(numbered(torch.cat((ir, ir + 10), dim=2)))
    assert columns[:2] == ['i1 v1 i2 v2 i3 v3 i4 v4', 'i1 i3 v1 v3 i2 i4 v2 v4']
    assert rows[:2] == ['i1 i2 v1 v2 i3 i4 v3 v4', 'i1 i3 i2 i4 v1 v3 v2 v4']
    assert columns[2:] == [' '.join(reversed(c.split())) for c in columns[:2]]


def test_separating_undoes_interleaving():
    a, b = torch.rand(2, 1, 3, 4, 5).unbind()
    assert all(torch.equal(x, y) for x,
               y in zip(separate_columns(fused.pair(a, b, 'columns')), (a, b)))


def test_guidance_starts_neutral():
    """Guidance starts neutral and then favors one side."""
    extraction = DifferenceGuidedRound(TINY)
    extraction.start_neutral()
    i, v = torch.rand(2, 1, 6, 6, 8).unbind()
    guided_i, guided_v = extraction(i, v)
    assert torch.allclose(guided_i, 1.5 * extraction.own_i(i))
    assert torch.allclose(guided_v, 1.5 * extraction.own_v(v))
    torch.nn.init.constant_(extraction.guide[1].bias, 9.0)
    guided_i, guided_v = extraction(i, v)
    assert torch.allclose(guided_i, 2 * extraction.own_i(i), rtol=1e-3)
    assert torch.allclose(guided_v, extraction.own_v(v), rtol=1e-3)


@pytest.mark.parametrize('exchanged, gets_B_i', [(True, 'mixer_v'), (False, 'mixer_i')])
def test_exchange_swaps_the_selections(exchanged, gets_B_i):
    """Exchange gives each modality the selection of the other."""
    exchange = ChannelExchange(replace(TINY, exchange=exchanged))
    i, v = torch.rand(2, 1, 6, 6, 8).unbind()
    *_, B_i, _ = exchange.mixer_i.project(i)
    handed = {}
    for name in ('mixer_i', 'mixer_v'):
        mixer = getattr(exchange, name)
        mixer.sequence = lambda x, delta, B, C, name=name, real=mixer.sequence: handed.update(
            {name: B}) or real(x, delta, B, C)
    exchange(i, v)
    assert [name for name, B in handed.items() if torch.equal(B, B_i)] == [gets_B_i]


@pytest.mark.parametrize('change, fewer', [
    ({'guidance': False}, True), ({'exchange': False}, False), ({'mixing': False}, True),
    ({'levels': 1}, True),
    ({'scans': ('row',)}, True), ({'scans': ('column',)}, True), ({'scans': ('stacked',)}, True)],
                         ids=str)
def test_an_idea_switched_off_is_gone(change, fewer):
    torch.manual_seed(0)
    whole, pair = DiffMF(TINY).eval(), images()
    torch.manual_seed(0)
    without = DiffMF(replace(TINY, **change)).eval()
    counts = [sum(p.numel() for p in network.parameters()) for network in (whole, without)]
    assert (counts[1] < counts[0]) if fewer else (counts[1] == counts[0])
    assert without(*pair).shape == (2, 1, 24, 32)
    assert not torch.equal(without(*pair), whole(*pair))


@pytest.mark.parametrize('model, preset',
                         [('diffmf', 'nano'), ('s4fusion', 'light'), ('refinefuse', 'light')])
def test_untrained_maps_near_visible(model, preset):
    """Maps of an untrained network vary about the visible image."""
    # Given the bias that a fresh network has in the layer that makes the maps,
    network = models.build(model, preset).eval()
    last = [module for module in network.modules() if isinstance(module, PixelConv2d)][-1]
    assert last.bias.tolist() == [-2, 0, -2, 0]
    torch.nn.init.zeros_(last.weight)
    side = network.sides.padded(40)
    black, white = torch.zeros(1, 1, side, side), torch.ones(1, 1, side, side)
    # when nothing else speaks, then visible detail counts once and thermal has 12 % of the base.
    with torch.inference_mode():
        assert torch.allclose(network(black, white), 1 - torch.sigmoid(torch.tensor(-2.0)))
        assert torch.allclose(network(white, black), torch.sigmoid(torch.tensor(-2.0)))


def test_training_share_is_mixture_share():
    """The share for training is that of the mixture."""
    network, pair = DiffMF(TINY), images()
    fused, share = network(*pair, with_share=True)
    assert share.shape == (2, 1, 24, 32)
    maps = network.maps(*pair)
    assert torch.equal(share, maps[:, :1])
    assert torch.equal(fused, mix(*pair, maps))
    assert torch.equal(fused, network(*pair))
