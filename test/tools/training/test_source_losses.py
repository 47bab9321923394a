# SPDX-License-Identifier: Apache-2.0
"""S4Fusion's loss: shares of the sources, uncertainty, and the ResNet-50 that both may come from.
"""

import math
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from safetensors.torch import save_file  # noqa: E402

from diffmf_ros.tools.training.config import ConfigError, TrainConfig, load_config  # noqa: E402
from diffmf_ros.tools.training.data import Batch  # noqa: E402
from diffmf_ros.tools.training.loop import Trainer  # noqa: E402
from diffmf_ros.tools.training.losses import (  # noqa: E402
    PRESETS,
    LossWeights,
    Perception,
    ResNet50,
    fusion_loss,
    load_resnet50,
    magnitude,
    sobel,
    ssim,
)
from diffmf_ros.tools.training.precision import TrainingError  # noqa: E402

SOURCES = LossWeights(intensity=0, gradient=0, ssim=0, source_l1=1, source_ssim=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def scene():
    """Fused, infrared and visible: two images each, 2 x 1 x 32 x 32."""
    return torch.rand(3, 2, 1, 32, 32).unbind()


@pytest.fixture(scope='module')
def resnet():
    """Untrained weights of the layout of torchvision's ResNet-50."""
    torch.manual_seed(1)
    return ResNet50().state_dict()


@pytest.fixture(scope='module')
def resnet_file(tmp_path_factory, resnet):
    path = tmp_path_factory.mktemp('resnet') / 'resnet50.safetensors'
    save_file(resnet, path)
    return path


class Eyes(torch.nn.Module):
    """Sees the image itself as its only feature, and logits that are given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return [image], self.logits


def test_without_perception_both_sources_count_alike(scene):
    fused, ir, vi = scene
    terms = fusion_loss(fused, ir, vi, SOURCES)
    l1, alike = 0.5 * ((ir - fused).abs() + (vi - fused).abs()).mean(), 0.5 * (
        ssim(ir, fused) + ssim(vi, fused))
    assert terms['source_l1'].item() == pytest.approx(l1.item())
    assert terms['source_ssim'].item() == pytest.approx((1 - alike.item()) / 2, rel=1e-5)
    assert terms['total'] == terms['source_l1'] + terms['source_ssim']


def test_shares_follow_visible_edges(scene):
    """Shares follow the edges that are seen image by image."""
    # Given images of which the first is sharper in infrared and the second in visible,
    fused, ir, vi = scene
    ir, vi = ir * torch.tensor([1.0, 0.1]).view(2, 1, 1,
                                                1), vi * torch.tensor([0.1, 1.0]).view(2, 1, 1, 1)
    perception = Perception(Eyes(torch.zeros(2, 10)), temperature=3.0)
    # when their shares are asked for, by the definition spelt out,
    normed = lambda image, mean, std: (image - mean) / std  # noqa: E731
    saliency = [sum(magnitude(sobel(normed(image, mean, std))).square().mean((1, 2, 3)) for mean,
                    std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))) / 3
                for image in (ir, vi)]
    expected = 1 / (1 + torch.exp((saliency[1] - saliency[0]) / 3.0))
    share_i, share_v = perception.shares(ir, vi)
    # then they are softmax of the mean squared edges, and weigh the terms.
    assert torch.allclose(share_i, expected) and torch.allclose(share_i + share_v, torch.ones(2))
    assert share_i[0] > 0.9 and share_i[1] < 0.1
    l1 = [(source - fused).abs().mean((1, 2, 3)) for source in (ir, vi)]
    found = fusion_loss(fused, ir, vi, SOURCES, perception=perception)['source_l1']
    assert found.item() == pytest.approx((share_i * l1[0] + share_v * l1[1]).mean().item())


@pytest.mark.parametrize('logits, nats',
                         [(torch.zeros(2, 1000), math.log(1000)), (100 * torch.eye(2, 1000), 0.0)])
def test_uncertainty_is_class_entropy(scene, logits, nats):
    """Uncertainty is the entropy of the classes."""
    terms = fusion_loss(*scene, LossWeights(intensity=0, gradient=0, ssim=0, uncertainty=2.0),
                        perception=Perception(Eyes(logits), temperature=1.0))
    assert terms['uncertainty'].item() == pytest.approx(nats, abs=1e-4)
    assert terms['total'].item() == pytest.approx(2 * nats, abs=1e-4)


def test_medical_preset_matches_mambadfuse(scene):
    """Medical preset is the medical loss of MambaDFuse."""
    fused, ir, vi = scene
    terms = fusion_loss(fused, ir, vi, PRESETS['medical'])
    assert set(terms) == {'total', 'intensity', 'gradient', 'source_ssim'}
    expected = (20 * terms['intensity'] + 100 * terms['gradient']
                + 50 * (1 - 0.5 * ssim(ir, fused) - 0.5 * ssim(vi, fused)))
    assert terms['total'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_s4fusion_preset_without_imagenet(scene):
    """S4Fusion preset has the three terms that need no ImageNet."""
    assert set(fusion_loss(*scene, PRESETS['s4fusion'])) == {'total', 'gradient', 'source_l1',
                                                             'source_ssim'}


def test_resnet_50_matches_torchvision(resnet_file):
    """ResNet-50 has the size of torchvision's."""
    network = load_resnet50(resnet_file)
    assert sum(p.numel() for p in network.parameters()) == 25_557_032
    assert len(network.state_dict()) == 320
    stages, logits = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(256, 16, 16), (512, 8, 8),
                                                            (1024, 4, 4), (2048, 2, 2)]
    assert logits.shape == (1, 1000)


def test_perception_is_used_unchanged(resnet_file, tmp_path):
    """Training with perception uses it and leaves it alone."""
    loss = LossWeights(intensity=0, gradient=0, ssim=0, source_l1=1, uncertainty=1)
    config = TrainConfig(data='', out=str(tmp_path), preset='nano', crop=32, batch=2, device='cpu',
                         loss=loss, perception=str(resnet_file))
    trainer = Trainer(config)
    terms = trainer.step(Batch(*torch.rand(7, 2, 1, 32, 32)))
    assert 0 < terms['uncertainty'] <= math.log(1000) + 1e-3 and terms['gradient_norm'] > 0
    network = trainer._perception._network
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_saved_weights_run_no_code(resnet, tmp_path):
    """Weights of torch.save are read and code in them is not run."""
    torch.save(resnet, tmp_path / 'resnet50.pth')
    assert torch.equal(load_resnet50(tmp_path / 'resnet50.pth').fc.weight, resnet['fc.weight'])
    torch.save({'fc.weight': Path(tmp_path)}, tmp_path / 'code.pth')
    with pytest.raises(TrainingError,
                       match='code.pth is neither safetensors nor a state dict of tensors alone'):
        load_resnet50(tmp_path / 'code.pth')


def test_other_network_lists_mismatch(tmp_path):
    """Another network is refused with what does not fit."""
    save_file({'fc.weight': torch.zeros(10, 2048)}, tmp_path / 'other.safetensors')
    with pytest.raises(TrainingError, match=r"not torchvision's ResNet-50: missing bn1.bias "
                       r"\(64,\); .* and 315 more"):
        load_resnet50(tmp_path / 'other.safetensors')


@pytest.mark.parametrize('text, message', [
    ('loss: {uncertainty: 1}', "uncertainty needs perception: a file with torchvision's ImageNet "
     "weights"),
    ('loss: target', "loss must hold a mapping such as {preset: target, share: 1}, not 'target'"),
    ('loss: {preset: best}', "unknown loss preset 'best'; known: swinfusion, target, s4fusion, "
     "medical"),
])
def test_unavailable_loss_is_explained(tmp_path, text, message):
    """Loss that cannot be had is explained."""
    (tmp_path / 'c.yaml').write_text(f'data: a\nout: b\n{text}\n')
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / 'c.yaml')


def test_loss_preset_takes_overrides(tmp_path):
    """Preset of the loss is changed by what stands beside it."""
    (tmp_path / 'c.yaml').write_text('data: a\nout: b\nloss: {preset: medical, gradient: 40}\n')
    assert load_config(tmp_path / 'c.yaml').loss == LossWeights(intensity=20, gradient=40, ssim=0,
                                                                source_ssim=100)


@pytest.mark.parametrize('change, message', [
    ({'model': 's4fusion', 'crop': 128},
     'light takes crops of a multiple of 12 plus 1 pixels, not 128: use 133'),
    ({'model': 'refinefuse', 'crop': 120},
     'takes crops of a multiple of 16 pixels, not 120: use 128'),
    ({'model': 's4fusion', 'preset': 'base', 'crop': 121, 'loss': PRESETS['target']},
     's4fusion base does not mix its sources: loss share has nothing to teach, set it to 0'),
])
def test_mismatched_training_is_refused(change, message):
    """Training that does not fit its network is refused."""
    with pytest.raises(TrainingError, match=message):
        Trainer(TrainConfig(data='', out='', device='cpu', **{'preset': 'light', **change}))
