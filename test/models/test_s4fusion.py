# SPDX-License-Identifier: Apache-2.0
"""S4Fusion: the authors' tensors, their results module by module, and the cross-modal scan spelt
out."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from s4fusion_golden import PREFIX, synthetic  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels.composed import scan_order  # noqa: E402
from diffmf_ros.models.s4fusion import (  # noqa: E402
    CrossModalSS2D,
    Expand,
    Merge,
    S4Fusion,
    S4FusionConfig,
)

GOLDEN = Path(__file__).resolve().parents[
    3] / 'shared' / 'reference' / 's4fusion' / 'unit_and_tiny.npz'
# Names and shapes of the authors' checkpoint, sorted, one a line.
TENSORS_SHA256 = 'b13a2850652e7446d5863f0c71be51c9a7c9cf531295876e1d5f057e3f83a9bd'
NEAR = {'atol': 1e-4, 'rtol': 0}
TINY = S4FusionConfig(width=8, depths=(1, 1, 1), states=3, cross_states=2, cross_blocks=2,
                      unused=False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(height=25, width=37, batch=1):
    return torch.rand(2, batch, 1, height, width).unbind()


def test_base_tensors_match_authors():
    """Tensors of base are those of the authors."""
    state = models.build('s4fusion', 'base').state_dict()
    listed = '\n'.join(sorted(f'{name} {",".join(map(str, tensor.shape))}' for name,
                              tensor in state.items()))
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (304, 3_562_981)
    assert hashlib.sha256(listed.encode()).hexdigest() == TENSORS_SHA256


def test_unused_parts_are_not_computed():
    """What no result depends on is held and not computed."""
    # Given the authors' network, when all that they never use becomes nonsense,
    network, pair = models.build('s4fusion', 'base').eval(), images()
    unused = [p for name, p in network.named_parameters()
              if name.startswith(('fusion_layers.0.', 'final_up.norm.'))]
    before = network(*pair)
    for parameter in unused:
        parameter.data.fill_(float('nan'))
    # then the image is the same, and nothing of it would learn.
    assert sum(p.numel() for p in unused) == 152_064 + 24
    assert torch.equal(network(*pair), before)
    assert not any(p.requires_grad for p in unused)


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.exists():
        pytest.skip(f'the golden arrays are not at {GOLDEN.parent}')
    return np.load(GOLDEN)


@pytest.fixture(scope='module')
def authors():
    """The authors' network with the synthetic weights of the golden arrays."""
    network = models.build('s4fusion', 'base').eval().requires_grad_(False)
    network.load_state_dict({name: torch.from_numpy(synthetic(PREFIX + name, tuple(tensor.shape)))
                             for name, tensor in network.state_dict().items()})
    return network


@pytest.fixture(params=['portable', 'cpu', 'reference'])
def backend(request, authors):
    """Every scan backend of a CPU in turn."""
    if reason := scan.BACKENDS[request.param].unavailable():
        pytest.skip(reason)
    for module in authors.modules():
        if hasattr(module, 'backend'):
            module.backend = request.param
    return request.param


def test_golden_arrays_share_synthetic_weights(golden, authors):
    """Synthetic weights are those of the golden arrays."""
    for name, total, first in zip(golden['weights/names'], golden['weights/sum'],
                                  golden['weights/first']):
        tensor = authors.state_dict()[str(name).removeprefix(PREFIX)]
        assert tensor.double().sum().item() == pytest.approx(float(total), rel=1e-4, abs=1e-3)
        assert tensor.flatten()[0].item() == pytest.approx(float(first), rel=1e-6)


def test_modules_match_authors(golden, authors, backend):
    """Every module gives what the authors' gives."""
    found, hooks = {}, []
    for name, module in authors.named_modules():
        hooks.append(module.register_forward_hook(lambda _, inputs, out,
                                                  name=name: found.update({name: out})))
    try:
        fused = authors(*(torch.from_numpy(golden[f'tiny/{name}'])[None, None]
                          for name in ('ir', 'vi_y')))
    finally:
        for hook in hooks:
            hook.remove()
    # Linear layer and overlapping sum are one operation here.
    found |= {'fold': found['final_up'], 'final_up': authors.final_up.expand(found['layers_up.2'])}
    found |= dict(zip(('fusion_layers.1.layers.0/ir', 'fusion_layers.1.layers.0/vi'),
                      found['fusion_layers.1.layers.0']))
    compared = [key for key in golden.files if key.startswith('tiny/act/')
                and 'fusion_layers.0' not in key]
    assert len(compared) == 24
    for key in compared:
        assert torch.allclose(found[key.removeprefix('tiny/act/')][0],
                              torch.from_numpy(golden[key]), **NEAR), key
    assert torch.allclose(fused[0, 0], torch.from_numpy(golden['tiny/out']), **NEAR)


def test_uncomputed_fusion_is_correct(golden, authors, backend):
    """The fusion that is never computed would be right."""
    inputs = (torch.from_numpy(golden[f'tiny/act/patch_embed_{side}'])[None] for side in 'xy')
    fused = authors.fusion_layers['0'](*inputs)
    assert torch.allclose(fused[0], torch.from_numpy(golden['tiny/act/fusion_layers.0']), **NEAR)


def test_units_give_what_the_authors_give(golden, authors, backend):
    array = {key: torch.from_numpy(golden[key])[None] for key in golden.files
             if key.startswith(('unit/ss2d', 'unit/cmsa'))}
    pair = array['unit/cmsa/in_ir'], array['unit/cmsa/in_vi']
    found = {'unit/ss2d/out': authors.layers_x[1].blocks[0].self_attention(array['unit/ss2d/in']),
             'unit/cmsa_layer/out': authors.fusion_layers['1'](*pair),
             **dict(zip(('unit/cmsa/out_ir', 'unit/cmsa/out_vi'),
                        authors.fusion_layers['1'].layers[0](*pair)))}
    for key, value in found.items():
        assert torch.allclose(value, array[key], **NEAR), key
    inputs = (torch.from_numpy(golden[f'unit/scan/{name}'])
              for name in 'u delta A B C D delta_bias'.split())
    scanned = scan.selective_scan(*inputs, True, backend=backend)
    assert torch.allclose(scanned, torch.from_numpy(golden['unit/scan/out']), **NEAR)


def interleaved_by_hand(us, projs, dt_weight, dt_bias, A, skip):
    """As scan.interleaved_ss2d: token by token, infrared before visible in all four directions, in
    float64."""
    (height, width, channels), rank, states = us[0].shape[1:], dt_weight.shape[2], A.shape[2]
    results = [np.zeros((height * width, channels)) for _ in us]
    for k, order in enumerate(scan_order(height, width).tolist()):
        state = np.zeros((channels, states))
        for at, which in ((at, which) for at in order for which in (0, 1)):
            u, record = (x[which][0].flatten(0, 1)[at].numpy() for x in (us, projs))
            low, B, C = np.split(record[k], [rank, rank + states])
            step = np.log1p(np.exp(dt_weight[k].numpy() @ low + dt_bias[k].numpy()))
            state = np.exp(step[:, None] * A[k].numpy()) * state + (step * u)[:, None] * B
            results[which][at] += state @ C + skip[k].numpy() * u
    return results


@pytest.mark.parametrize('backend', ['portable', 'cpu', 'reference'])
def test_tokens_of_two_images_take_turns(backend):
    if reason := scan.BACKENDS[backend].unavailable():
        pytest.skip(reason)
    height, width, channels, rank, states = 3, 5, 6, 2, 3
    us, projs = torch.randn(2, 1, height, width,
                            channels), torch.randn(2, 1, height, width, 4, rank + 2 * states)
    parameters = (torch.randn(4, channels, rank), torch.randn(4, channels),
                  -torch.rand(4, channels, states) - 0.1, torch.randn(4, channels))
    expected = interleaved_by_hand(*(x.double() for x in (us, projs)),
                                   *(x.double() for x in parameters))
    found = scan.interleaved_ss2d(us.unbind(), projs.unbind(), *parameters, backend=backend)
    for own, by_hand in zip(found, expected):
        assert own.shape == (1, height, width, channels)
        assert np.allclose(own[0].flatten(0, 1).numpy(), by_hand, atol=1e-5)


@pytest.mark.parametrize('dtype, allowed', [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
                         ids=str)
def test_interleaved_scan_takes_half_precision(dtype, allowed):
    us, projs = torch.randn(2, 1, 4, 6, 8), 0.3 * torch.randn(2, 1, 4, 6, 4, 7)
    parameters = torch.randn(4, 8, 1), torch.randn(4, 8), -torch.rand(4, 8,
                                                                      3) - 0.1, torch.randn(4, 8)
    expected = scan.interleaved_ss2d(us, projs, *parameters)
    found = scan.interleaved_ss2d(us.to(dtype), projs.to(dtype), *parameters)
    for near, exact in zip(found, expected):
        assert near.dtype == dtype
        assert (near - exact).abs().max() < allowed * exact.abs().max()


def test_modalities_share_what_they_share():
    block = CrossModalSS2D(8, states=2, gate=True, conv_bias=True, expand=1.5)
    x, y = torch.randn(2, 1, 4, 4, 8).unbind()
    block.y_proj_weight.data.copy_(block.x_proj_weight)
    first, second = block(x, x)
    assert not torch.allclose(first, second)  # the second token of a place has seen the first
    assert all(out.shape == x.shape for out in block(x, y))


def test_four_pixel_cells_follow_authors():
    """Cells of four pixels merge and expand in the authors' orders."""
    image = torch.arange(4.0).view(1, 2, 2, 1)  # 0 1 / 2 3
    merge = Merge(1)
    merge.norm, merge.reduction = torch.nn.Identity(), torch.nn.Identity()
    assert merge(image).flatten().tolist() == [0, 2, 1, 3]  # column by column
    expand = Expand(4)
    expand.norm = torch.nn.Identity()
    expand.expand.weight.data = torch.arange(8.0)[:, None] * torch.tensor([1.0, 0, 0, 0])
    # row by row
    assert expand(torch.ones(1, 1, 1, 4)).flatten(0, 2).tolist() == [[0, 1], [2, 3], [4, 5],
                                                                     [6, 7]]


@pytest.mark.parametrize('mixing', [False, True])
def test_every_parameter_gets_gradient(mixing):
    """Every parameter of a network without unused ones gets a gradient."""
    network = S4Fusion(S4FusionConfig(**{**TINY.__dict__, 'mixing': mixing}))
    network(*images(batch=2)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None
            or not p.grad.abs().sum() > 0] == []


def test_sources_differ_batches_do_not():
    """Sources are not interchangeable and batches are."""
    network, (ir, vi) = S4Fusion(TINY).eval(), images(batch=3)
    assert not torch.allclose(network(ir, vi), network(vi, ir))
    alone = torch.cat([network(ir[i:i + 1], vi[i:i + 1]) for i in range(3)])
    assert torch.allclose(network(ir, vi), alone, atol=1e-5)


@pytest.mark.parametrize('height, width', [(13, 13), (13, 61), (61, 73)])
def test_sides_twelves_plus_one_taken(height, width):
    """Sides of twelves and one are taken and others refused."""
    network = S4Fusion(TINY).eval()
    assert network(*images(height, width)).shape == (1, 1, height, width)
    with pytest.raises(ValueError, match='a multiple of 12 plus 1'):
        network(*images(height + 1, width))
