"""What changes without offsets, on layers whose effect is known."""

import numpy as np
import pytest
import torch
from torch import nn

from dlka_med.inspection.effects import EVERY, Effects, classes
from dlka_med.inspection.inspect_table import verdict
from dlka_med.inspection.view import Window
from dlka_med.layers import DeformConv, without_offsets


class Shifted(nn.Module):
    """Two logits: zero, and the image shifted by a layer's offset; an idle layer beside it."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle = (DeformConv(2, 1, 1, 1, bias=False) for _ in range(2))
        with torch.no_grad():
            self.layer.weight.fill_(1)
            self.idle.weight.fill_(0)
            self.layer.offset_conv.bias.copy_(torch.tensor([0.0, 2.0]))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.layer(x) + self.idle(x)], 1)


def test_effects_of_a_shift():
    network, image = Shifted(), torch.randn(1, 6, 8)
    inside = (slice(0, 6), slice(1, 7))
    window = Window(image, np.zeros((6, 8), np.uint8), (0, -1), inside)
    effects = Effects(["layer", "idle"], None)
    plain = network(image[None]).detach()
    effects.add(network, window, plain)
    shifted = torch.nn.functional.pad(image[0], (0, 2))[:, 2:][inside].numpy()
    still = image[0][inside].numpy()
    logits = np.stack([0 * shifted, shifted])
    found = effects.figures
    assert found["idle"]["silent"] == found["idle"]["still"] == {"logits": 0, "voxels": 0, "share_of_labelled": 0}
    changed, labelled = ((shifted > 0) != (still > 0)).sum(), (shifted > 0).sum()
    assert found["layer"]["still"]["voxels"] == changed
    assert found["layer"]["still"]["share_of_labelled"] == pytest.approx(changed / labelled)
    expected = np.sqrt(np.square(shifted - still).sum() / logits.size) / logits.std()
    assert found["layer"]["still"]["logits"] == pytest.approx(expected, rel=1e-5)
    assert found["layer"]["silent"]["voxels"] == labelled
    assert found[EVERY]["still"] == found["layer"]["still"]
    with without_offsets(network):
        assert network(image[None])[0, 1].equal(image[0])


def test_where_nothing_is_labelled_a_change_is_no_share_but_told():
    network, image = Shifted(), -torch.ones(1, 6, 8)
    image[:, :, 1] = 1
    network.layer.offset_conv.bias.data[1] = 9.0  # every point reads outside
    window = Window(image, np.zeros((6, 8), np.uint8), (0, 0), (slice(0, 6), slice(0, 8)))
    effects = Effects(["layer", "idle"], None)
    effects.add(network, window, network(image[None]).detach())
    found = effects.figures[EVERY]["still"]
    assert (found["voxels"], found["share_of_labelled"]) == (6, None)
    told = verdict(found)
    assert "6 voxels change label, while none has one as it is" in told
    assert "next to nothing" not in told
    assert "next to nothing" in verdict(found | {"voxels": 0})


def test_regions_are_painted_over_each_other():
    logits = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
    assert classes(logits, (3, 2)).tolist() == [3, 2, 0]
    assert classes(logits, None).tolist() == [0, 0, 0]
