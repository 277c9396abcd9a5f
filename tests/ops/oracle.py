"""Deformable convolution as nested loops over numbers, written from its formula alone."""

import itertools
import math

import numpy as np


def sample(images, point):
    """Multilinear value of each of the `images` (channels, *size) at `point`, zero outside."""
    value = np.zeros(len(images))
    if not all(math.isfinite(p) for p in point):
        return value
    for voxel in itertools.product(*((math.floor(p), math.floor(p) + 1) for p in point)):
        if all(0 <= v < size for v, size in zip(voxel, images.shape[1:], strict=True)):
            value += math.prod(1 - abs(p - v) for p, v in zip(point, voxel, strict=True)) * images[(..., *voxel)]
    return value


def deform_conv_loops(x, offset, weight, bias, mask, kernel, stride, padding, dilation, groups, offset_groups):
    """The operator on float64 arrays; everything per axis is a tuple."""
    dims = len(kernel)
    kernel_points = list(itertools.product(*(range(k) for k in kernel)))
    positions = list(itertools.product(*(range(size) for size in offset.shape[2:])))
    batch, channels = x.shape[:2]
    outputs = channels if weight is None else weight.shape[0]
    y = np.zeros((batch, outputs, *offset.shape[2:]))
    for b, p in itertools.product(range(batch), positions):
        sampled = np.zeros((channels, *kernel))
        for g, (number, k) in itertools.product(range(offset_groups), enumerate(kernel_points)):
            row = g * len(kernel_points) + number
            members = slice(g * channels // offset_groups, (g + 1) * channels // offset_groups)
            shift = [offset[(b, row * dims + axis, *p)] for axis in range(dims)]
            point = [p[a] * stride[a] - padding[a] + k[a] * dilation[a] + shift[a] for a in range(dims)]
            factor = 1 if mask is None else mask[(b, row, *p)]
            sampled[(members, *k)] = factor * sample(x[b, members], point)
        for o in range(outputs):
            if weight is None:
                y[(b, o, *p)] = sampled[o].sum()
            else:
                first = (o // (outputs // groups)) * (channels // groups)
                y[(b, o, *p)] = (weight[o] * sampled[first : first + channels // groups]).sum()
            y[(b, o, *p)] += 0 if bias is None else bias[o]
    return y
