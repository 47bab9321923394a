# SPDX-License-Identifier: Apache-2.0
"""RefineFuse: sizes of the figure, each module against its formula, and attention that sees the
whole image."""

from dataclasses import replace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.models.refinefuse import (  # noqa: E402
    CrossAttention,
    DualAttention,
    GlobalInteraction,
    Injection,
    RefineFuse,
    RefineFuseConfig,
)

TINY = RefineFuseConfig(widths=(4, 6, 32, 32))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(height=32, width=48, batch=1):
    return torch.rand(2, batch, 1, height, width).unbind()


def test_base_has_specified_parameters():
    """Parts of base have the specified numbers of parameters."""
    network = models.build('refinefuse', 'base')
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(network) == 3_465_000
    encoders = [2 * count(stage) for stage in network.encoder_a]
    decoder = [count(part) for part in (network.decode_4, network.decode_3, network.inject,
                                        network.decode_2, network.decode_1)]
    assert encoders == [76_288, 147_712, 442_880, 590_336]
    assert [count(module) for module in network.fusion] == [106_946, 106_946, 564_352, 561_280]
    assert decoder == [147_584, 368_832, 184_576, 73_856, 93_412]


def test_feature_sizes_follow_authors():
    """Features have the sizes of the authors' figure."""
    # Given the network, and every stage of an encoder and of the fusion watched,
    network, sizes = models.build('refinefuse', 'base').eval(), {}
    for place, modules in (('encoder', network.encoder_a), ('fusion', network.fusion)):
        for scale, module in enumerate(modules, start=1):
            module.register_forward_hook(
                lambda _, x, out, key=(place, scale): sizes.update({key: tuple(out.shape[1:])}))
    # when a 64 x 96 pair is fused, then widths and strides are those that are drawn.
    with torch.inference_mode():
        network(*images(64, 96))
    drawn = {1: (64, 64, 96), 2: (64, 32, 48), 3: (128, 16, 24), 4: (128, 8, 12)}
    assert sizes == {(place, scale): size for place in ('encoder', 'fusion') for scale,
                     size in drawn.items()}


def test_shallow_interaction_gates_other_modality():
    """Shallow interaction opens the other modality by channel and by place."""
    module, (a, b) = DualAttention(4), torch.randn(2, 2, 4, 6, 8).unbind()
    seen = {}
    module.merge.register_forward_hook(lambda _, x, out: seen.update(merged=x[0]))
    module(a, b)
    both = torch.cat((a, b), 1)
    w1, w2 = module.channel[0], module.channel[2]
    pooled = torch.cat((both.mean((2, 3)), both.amax(3).amax(2)), 1)
    channel = torch.sigmoid(w2(torch.relu(w1(pooled))))[:, :, None, None]
    spatial = torch.sigmoid(module.spatial[2](torch.relu(module.spatial[0](both))))
    expected_a = a + 0.5 * channel[:, 4:] * b + 0.5 * spatial[:, 1:] * b
    expected_b = b + 0.5 * channel[:, :4] * a + 0.5 * spatial[:, :1] * a
    assert torch.allclose(seen['merged'], torch.cat((expected_a, expected_b), 1), atol=1e-6)


def test_attention_over_reduced_keys():
    """Attention is softmax over the reduced keys of the other."""
    module, tokens, other = CrossAttention(64, 4), torch.randn(1, 96,
                                                               64), torch.randn(1, 64, 8, 12)
    reduced = module.reduce(other).flatten(2).mT
    keys, values = module.key_value(reduced).split(64, dim=-1)
    queries, heads = module.query(tokens), []
    for head in (slice(0, 32), slice(32, 64)):
        weights = torch.softmax(queries[..., head] @ keys[..., head].mT / 32 ** 0.5, dim=-1)
        heads.append(weights @ values[..., head])
    assert reduced.shape == (1, 2 * 3, 64)
    assert torch.allclose(module(tokens, other), module.out(torch.cat(heads, -1)), atol=1e-5)


def test_deep_interaction_sees_whole_image():
    """Deep interaction sees the whole image of the other."""
    module, (a, b) = GlobalInteraction(32, 2).eval(), torch.randn(2, 1, 32, 16, 16).unbind()
    changed = b.clone()
    changed[..., :2, :2] = 5 * torch.randn(32, 2, 2)  # one corner,
    difference = (module(a, changed) - module(a, b)).abs()[..., -4:, -4:]  # seen in the other
    assert difference.max() > 1e-5


def test_deep_features_start_without_shift():
    """Deep features scale and shift shallow ones and start without a shift."""
    module, (deep, shallow) = Injection(4), torch.randn(2, 1, 4, 6, 6).unbind()
    seen = {}
    module.merge.register_forward_hook(lambda _, x, out: seen.update(merged=x[0]))
    read = torch.relu(module.read(deep))
    module(deep, shallow)
    expected = shallow * (1 + torch.sigmoid(module.gain(read))) + module.shift(read)
    assert torch.allclose(seen['merged'], torch.cat((expected, deep), 1), atol=1e-6)
    module.start_neutral()
    assert not module.shift(read).any()


def test_one_parameter_set_every_size():
    """One set of parameters takes every size."""
    network = RefineFuse(TINY).eval()
    for height, width in ((16, 16), (16, 112), (256, 256)):
        assert network(*images(height, width)).shape == (1, 1, height, width)
    with pytest.raises(ValueError, match='a multiple of 16 pixels'):
        network(*images(24, 32))


@pytest.mark.parametrize('mixing', [False, True])
def test_every_parameter_gets_a_gradient(mixing):
    network = RefineFuse(replace(TINY, mixing=mixing))
    torch.nn.init.normal_(network.inject.shift.weight)  # it starts at zero
    network(*images(batch=2)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None
            or not p.grad.abs().sum() > 0] == []


def test_batch_images_are_independent():
    """An image of the batch does not see the others."""
    network, (ir, vi) = RefineFuse(TINY).eval(), images(batch=3)
    alone = torch.cat([network(ir[i:i + 1], vi[i:i + 1]) for i in range(3)])
    assert torch.allclose(network(ir, vi), alone, atol=1e-5)
