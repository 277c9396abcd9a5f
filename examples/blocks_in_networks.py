"""D-LKA blocks inside networks of MONAI, and a small network of CSP blocks: each learns to find bright balls.

Three ways to use the blocks of this project elsewhere:
- `UNetWithDLKA`: MONAI's UNet, 3D, with a D-LKA block in its bottleneck;
- `segresnet_with_dlka`: MONAI's SegResNet, 2D, with a D-LKA block at the end of every encoder stage;
- `CSPNet`: a U-shaped network, 2D, whose stages are `C3_DCNv3_DLKA` blocks.
"""

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from dlka_med.blocks import C3_DCNv3_DLKA, DLKABlock, PatchDownsample, PatchUpsample

STEPS = 12


class UNetWithDLKA(UNet):
    """MONAI's UNet; a D-LKA block follows its bottleneck."""

    def _get_bottom_layer(self, in_channels: int, out_channels: int) -> nn.Module:
        bottom = super()._get_bottom_layer(in_channels, out_channels)
        return nn.Sequential(bottom, DLKABlock(out_channels, self.dimensions, layer_scale=0.1))


def segresnet_with_dlka(spatial_dims: int, channels: int = 8) -> SegResNet:
    """MONAI's SegResNet, which doubles its channels from stage to stage; a D-LKA block ends each stage."""
    network = SegResNet(spatial_dims, channels, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1))
    for number, stage in enumerate(network.down_layers):
        stage.append(DLKABlock(channels * 2**number, spatial_dims, layer_scale=0.1))
    return network


class CSPNet(nn.Module):
    """Two scales of CSP blocks: image `(B, 1, H, W)` of even height and width -> logits `(B, 2, H, W)`."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.fine = C3_DCNv3_DLKA(1, channels)
        self.down = PatchDownsample(2, channels, 2 * channels, 2)
        self.coarse = C3_DCNv3_DLKA(2 * channels, 2 * channels, n=2, g=4)
        self.up = PatchUpsample(2, 2 * channels, channels, 2)
        self.merged = C3_DCNv3_DLKA(2 * channels, channels, shortcut=False)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.up(self.coarse(self.down(fine)))
        return self.head(self.merged(torch.cat([fine, coarse], 1)))


def balls(images: int, size: int, spatial_dims: int) -> tuple[Tensor, Tensor]:
    """Noisy images with one bright ball each, `(images, 1, *[size] * spatial_dims)`, and its label."""
    axes = torch.meshgrid(*[torch.arange(size)] * spatial_dims, indexing="ij")
    centres = size * (0.3 + 0.4 * torch.rand(images, spatial_dims))
    squares = sum(
        (axis - centre.view(-1, *[1] * spatial_dims)) ** 2 for axis, centre in zip(axes, centres.T, strict=True)
    )
    label = (squares < (0.25 * size) ** 2).float()[:, None]
    return label + torch.randn_like(label), label


def train(network: nn.Module, size: int, spatial_dims: int) -> list[float]:
    """The loss of every step, each on new images."""
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(STEPS):
        image, label = balls(4, size, spatial_dims)
        optimizer.zero_grad()
        loss = loss_function(network(image), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train each network for a few steps; print its loss."""
    torch.manual_seed(0)
    unet = UNetWithDLKA(3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    for network, size, spatial_dims in ((unet, 16, 3), (segresnet_with_dlka(2), 32, 2), (CSPNet(), 32, 2)):
        losses = train(network, size, spatial_dims)
        print(f"{type(network).__name__}, {spatial_dims}D: loss " + " ".join(f"{loss:.2f}" for loss in losses))


if __name__ == "__main__":
    main()
