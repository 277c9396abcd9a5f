"""Images on which deforming has to pay: a structure displaced by a smooth field that the image also shows.

As in echo-planar MRI, where a structure appears shifted along one axis by what a field map tells. The label is where it
truly is: voxel p of it is found at p + field(p) of the image, up to `REACH` voxels away and elsewhere in every case. A
fixed kernel has to cover all places that may be meant; a deformable one can look at the right one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 16.0  # voxels along the first axis
STRUCTURE = 8  # voxels, its correlation length
SIZES = {2: (64, 16), 3: (64, 8, 8)}


def distorted(count: int, dims: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 2, *S): structure and field; labels (N, 1, *S), 40 % foreground; fields (N, *S) in voxels."""
    random, size = torch.Generator().manual_seed(seed), SIZES[dims]
    structure = smooth(random, count, size, STRUCTURE)
    field = smooth(random, count, size, max(size) / 2)
    field = REACH * field / field.abs().amax(tuple(range(1, dims + 2)), keepdim=True)
    grid = F.affine_grid(torch.eye(dims, dims + 1).expand(count, -1, -1), (count, 1, *size), align_corners=False)
    grid = grid.clone()
    grid[..., -1] += 2 * field[:, 0] / size[0]
    truth = F.grid_sample(structure, grid, padding_mode="border", align_corners=False)
    threshold = structure.flatten(1).quantile(0.6, 1).view(-1, *[1] * (dims + 1))
    image = structure + 0.1 * torch.randn(structure.shape, generator=random)
    return torch.cat([image, 1.5 * field / REACH], 1), (truth > threshold).long(), field[:, 0]


def smooth(random: torch.Generator, count: int, size: Sequence[int], length: float) -> Tensor:
    """Noise (N, 1, *S) whose values at `length` voxels from each other are independent."""
    coarse = torch.randn(count, 1, *[max(2, round(n / length)) for n in size], generator=random)
    return F.interpolate(coarse, size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)
