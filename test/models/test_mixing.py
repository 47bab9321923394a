# SPDX-License-Identifier: Apache-2.0
"""Gated mixing: what each map does, by hand; and what the first layers of a network see."""

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.models.mixing import base, ground, mix, seen  # noqa: E402

SHUT, OPEN = -20.0, 20.0  # logits
ONE = 0.0  # logit of a gain of one: gains go from 0 to 2
SIZES = [(13, 13), (14, 17), (25, 37), (64, 48), (97, 131)]
NEAR = {'atol': 5e-6, 'rtol': 0}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(height=40, width=56, batch=2):
    return torch.rand(2, batch, 1, height, width).unbind()


def maps(share, visible, thermal, added=0.0, *, like):
    """Return B x 4 x H x W with these values everywhere."""
    values = torch.tensor([share, visible, thermal, added]).view(1, 4, 1, 1)
    return values.repeat(len(like), 1, *like.shape[2:])


@pytest.mark.parametrize('height, width', SIZES)
def test_shut_gates_give_the_visible_image(height, width):
    ir, vi_y = images(height, width)
    fused = mix(ir, vi_y, maps(SHUT, ONE, SHUT, like=ir))
    assert fused.shape == ir.shape
    assert torch.allclose(fused, vi_y, **NEAR)


@pytest.mark.parametrize('height, width', SIZES)
def test_open_share_gives_thermal(height, width):
    """An open share gives thermal with and without its detail."""
    ir, vi_y = images(height, width)
    assert torch.allclose(mix(ir, vi_y, maps(OPEN, SHUT, ONE, like=ir)), ir, **NEAR)
    assert torch.allclose(mix(ir, vi_y, maps(OPEN, SHUT, SHUT, like=ir)), base(ir), **NEAR)


def test_base_takes_other_detail():
    """Base of one camera takes the detail of the other."""
    ir, vi_y = images()
    fused = mix(ir, vi_y, maps(OPEN, ONE, SHUT, like=ir))
    assert torch.allclose(fused, base(ir) + vi_y - base(vi_y), **NEAR)


def test_the_largest_gain_doubles_detail():
    ir, vi_y = images()
    fused = mix(ir, vi_y, maps(SHUT, OPEN, SHUT, like=ir))
    assert torch.allclose(fused, vi_y + (vi_y - base(vi_y)), **NEAR)


@pytest.mark.parametrize('height, width', SIZES)
def test_flat_images_mix_by_share(height, width):
    """Flat images are mixed by the share whatever the gains."""
    # Given two cameras without any detail, up to the border,
    ir, vi_y = torch.full((1, 1, height, width), 0.8), torch.full((1, 1, height, width), 0.3)
    share = torch.tensor(0.25).logit().item()
    # when a quarter of the base is thermal, then so is the picture.
    for visible, thermal in ((ONE, SHUT), (OPEN, OPEN), (-1.3, 0.7)):
        fused = mix(ir, vi_y, maps(share, visible, thermal, like=ir))
        assert torch.allclose(fused, torch.full_like(ir, 0.25 * 0.8 + 0.75 * 0.3), **NEAR)


def test_what_is_added_is_added():
    (ir, vi_y), any_maps = images(), torch.randn(2, 4, 40, 56)
    more = torch.rand(2, 1, 40, 56)
    changed = torch.cat((any_maps[:, :3], any_maps[:, 3:] + more), dim=1)
    assert torch.allclose(mix(ir, vi_y, changed), mix(ir, vi_y, any_maps) + more, **NEAR)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_maps_mix_in_pixel_type(dtype):
    """Maps of half precision are mixed in the type of the pixels."""
    (ir, vi_y), half = images(), torch.randn(2, 4, 40, 56).to(dtype)
    fused = mix(ir, vi_y, half)
    assert fused.dtype == torch.float32
    assert torch.equal(fused, mix(ir, vi_y, half.float()))


def test_base_is_eight_pixel_mean():
    """Base keeps slopes and takes the mean of eight pixels."""
    # Given a slope, and noise,
    slope = torch.linspace(0, 1, 64).expand(1, 1, 48, 64)
    # then inside the base of a slope is the slope: what is left is detail,
    inside = (..., slice(6, -8))
    assert torch.allclose(base(slope)[inside], slope[inside], **NEAR)
    # and between two means, whose centers lie at 5.5 and 9.5, it is bilinear.
    noise = torch.rand(1, 1, 48, 64)
    means = [[noise[..., top:top + 8, left:left + 8].mean() for left in (2, 6)] for top in (2, 6)]
    by_hand = sum(weight * (0.375 * left + 0.625 * right)
                  for weight, (left, right) in zip((0.375, 0.625), means))
    assert base(noise)[0, 0, 8, 8].item() == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize('height, width', SIZES)
def test_flat_image_has_no_surround(height, width):
    """A flat image has no surround and is its own ground."""
    flat = torch.full((1, 1, height, width), 0.7)
    thermal, visible = seen(flat, flat)
    assert thermal.shape == visible.shape == (1, 2, height, width)
    for image in (thermal, visible):
        assert torch.allclose(image[:, 0], torch.tensor(4 * 0.7 - 2), **NEAR)
        # Four times the rounding of a float32 mean that adds 4096 pixels one by one.
        assert torch.allclose(image[:, 1], torch.tensor(0.0), atol=2e-4)


@pytest.mark.parametrize('side, level, shown', [
    (64, 0.75, 8 * 0.5),  # warm and narrow: 0.5 above the ground
    (64, 0.05, 0.0),  # cold: it is ground itself
    (160, 0.75, 0.0)])  # warm and wide: it belongs to the ground
def test_thermal_shows_warmth_over_ground(side, level, shown):
    """Thermal shows how much warmer than its ground it is."""
    # Given a block on a ground of 0.25, larger than what the ground is taken from,
    ir = torch.full((1, 1, 320, 320), 0.25)
    block = slice(80, 80 + side)
    ir[..., block, block] = level
    thermal, _ = seen(ir, ir)
    # then its inside shows what is above the ground, and the rest nothing.
    inside = slice(96, 64 + side)
    assert torch.allclose(thermal[0, 1, inside, inside], torch.tensor(shown), atol=1e-5)
    assert torch.allclose(thermal[0, 1, :64, :64], torch.tensor(0.0), atol=1e-5)
    assert torch.equal(thermal[:, :1], 4 * ir - 2)


def test_ground_opens_by_seventeen_means():
    """The ground is an opening by seventeen means."""
    # Given means of 8 x 8 pixels one row of which is warm in 17 and in 16 of them,
    ir = torch.zeros(1, 1, 8, 8 * 60)
    ir[..., 8 * 5:8 * 22] = 1
    ir[..., 8 * 30:8 * 46] = 1
    found = ground(ir)
    # then only the wider one is ground.
    assert torch.allclose(found[..., 8 * 6:8 * 21], torch.tensor(1.0))
    assert torch.allclose(found[..., 8 * 29:], torch.tensor(0.0))


def test_visible_shows_brightness_over_surround():
    """The visible image shows what is brighter than its surround."""
    slope = torch.linspace(0, 1, 256).expand(1, 1, 192, 256)
    spot = slope.clone()
    spot[..., 96, 128] += 0.5
    _, visible = seen(slope, spot)
    assert torch.allclose(visible[0, 1, 96, 128], torch.tensor(2.0), atol=4 * 0.5 / 64 ** 2 + 1e-5)
    assert visible[0, 1, 40:56, 64:192].abs().max() < 2e-4


def test_detail_bound_gives_no_gradient():
    """The bound of visible detail teaches the share nothing."""
    # Given fine visible texture of the mean of a flat thermal image, and a gain at its bound,
    ir = torch.full((1, 1, 32, 32), 0.5)
    vi_y = ir + 0.1 * (torch.arange(32) % 2 * 2 - 1)
    maps = torch.zeros(1, 4, 32, 32)
    maps[:, 1] = -9
    maps.requires_grad_(True)
    # when something depends on the texture of the fused image,
    (mix(ir, vi_y, maps) * (vi_y - ir)).sum().backward()
    # then the share, which the bound follows, is not asked to change it.
    assert maps.grad[:, 0].abs().max() < 1e-6
