"""One optimisation step."""

import pytest
import torch
from torch import nn

from dlka_med.config.labels import LabelScheme
from dlka_med.training.task import SegmentationTask

from .runs import changed

LABELS = LabelScheme.of({"background": 0, "ball": 1})


class Network(nn.Module):
    scale_strides = ((1,),)

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_the_average_follows_its_recurrence(config, monkeypatch):
    """decay_n = min(decay, (1 + n) / (10 + n)), by hand; buffers are those of the network."""
    network = Network()
    task = SegmentationTask(network, changed(config, ema=0.3).training, LABELS)
    monkeypatch.setattr(torch.Tensor, "__float__", None)  # a GPU would have to finish all that it was given
    expected = {}
    for step in range(8):
        with torch.no_grad():
            for tensor in network.parameters():
                tensor.normal_()
            network.layers[1].running_mean.normal_()
        task.on_train_batch_end(None, None, step)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in network.named_parameters():
            new = tensor.detach().double()
            expected[name] = decay * expected[name] + (1 - decay) * new if step else new.clone()
    average = task.shipped_network.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(average[name].double(), tensor, rtol=1e-5, atol=1e-6)
    assert torch.equal(average["layers.1.running_mean"], network.layers[1].running_mean)


def test_the_average_is_taken_of_all_tensors_at_once(config, monkeypatch):
    calls = []
    subtract = torch._foreach_sub
    monkeypatch.setattr(torch, "_foreach_sub", lambda *lists: (calls.append(len(lists[0])), subtract(*lists))[1])
    network = Network()
    task = SegmentationTask(network, changed(config, ema=0.3).training, LABELS)
    for step in range(2):
        task.on_train_batch_end(None, None, step)
    assert calls == [len(list(network.parameters()))]


@pytest.mark.parametrize("row", [{}, {"epoch": 3, "loss": 0.5}])
def test_what_is_known_of_the_epoch_is_kept_in_checkpoints(config, row):
    task, checkpoint = SegmentationTask(Network(), config.training, LABELS), {}
    task.row = row
    task.on_save_checkpoint(checkpoint)
    other = SegmentationTask(Network(), config.training, LABELS)
    other.on_load_checkpoint(checkpoint)
    assert other.row == row
    other.on_load_checkpoint({})
    assert other.row == {}
