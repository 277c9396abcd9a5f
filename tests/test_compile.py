"""torch.compile takes blocks and whole networks in one graph, which computes what they compute."""

import shutil
from copy import deepcopy

import pytest
import torch

from dlka_med.blocks import DLKABlock
from dlka_med.networks import DLKANet2d, DLKANet3d, DLKAUNet

pytestmark = pytest.mark.slow
SIZES = {"img_size": (8, 16, 16), "channels": (4, 8), "depths": (1, 1), "strides": ((1, 2, 2), (2, 2, 2))}
IN_3D = {"supervised_scales": 1, "dropout": 0.0, "layer_scale": 0.1, **SIZES}
NETWORKS = {
    "3D": (lambda: DLKANet3d(1, 3, **IN_3D), (1, 1, 7, 16, 18)),
    "3D checkpointed": (lambda: DLKANet3d(1, 3, checkpointing=True, **IN_3D), (2, 1, 7, 16, 18)),
    "U-Net": (lambda: DLKAUNet(3, 2, spatial_dims=2, channels=(4, 4, 8, 8), supervised_scales=1), (2, 3, 50, 64)),
    "2D": (lambda: DLKANet2d(3, 2, 64, encoder="test_convnext", depths=(1, 1, 1), layer_scale=0.1), (2, 3, 50, 64)),
}


def compare(network, x, backend):
    """Outputs, gradients and running statistics of the compiled network and of the network itself."""
    results = []
    for run in (torch.compile(network, backend=backend, fullgraph=True), network):
        network.zero_grad()
        before = deepcopy(dict(network.named_buffers()))
        y = run(x)
        y.square().mean().backward()
        changed = (buffer.double() for buffer in network.buffers())
        results.append([y.detach(), *(p.grad.clone() for p in network.parameters()), *changed])
        network.load_state_dict(before, strict=False)
    torch.compiler.reset()
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item() + 1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_one_graph(name):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    compare(build(), torch.randn(shape), "aot_eager")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.filterwarnings("ignore:.*No CUDA runtime:UserWarning")
def test_blocks_by_inductor(dims):
    if shutil.which("g++") is None:
        pytest.skip("NOT TESTED: Inductor needs a C++ compiler")
    torch.manual_seed(0)
    block = DLKABlock(4, dims, layer_scale=0.1)
    compare(block, torch.randn(1, 4, *(9, 8, 7)[:dims]), "inductor")
