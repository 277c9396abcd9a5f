import itertools

import numpy as np
import pytest
import torch

from dlka_med.losses import DiceCELoss, PyramidLoss, block_means


def loss_in_numpy(logits, label, dice_weight, ce_weight, include_background, batch):
    """The definition, in float64, without torch or MONAI; labels are class indices or shares."""
    logits = logits.astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    classes = logits.shape[1]
    shares = label if label.shape[1] > 1 else np.concatenate([label == k for k in range(classes)], 1)
    shares = shares.astype(np.float64)
    axes = (*((0,) if batch else ()), *range(2, logits.ndim))
    smooth = 1e-5
    size = probabilities.sum(axes) + shares.sum(axes)
    dice = (size - np.abs(probabilities - shares).sum(axes) + smooth) / (size + smooth)
    dice = dice if include_background else dice[..., 1:]
    cross_entropy = -(shares * np.log(probabilities)).sum(1).mean()
    return dice_weight * (1 - dice).mean() + ce_weight * cross_entropy


def gradient_in_numpy(logits, *arguments, step=1e-5):
    """Central differences."""
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (loss_in_numpy(up, *arguments) - loss_in_numpy(down, *arguments)) / (2 * step)
    return gradient


def make(shape, classes, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(2, classes, *shape)), generator.integers(0, classes, (2, 1, *shape))


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 3)])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("dice_weight", "ce_weight", "include_background", "batch"),
    [(1.0, 1.0, False, True), (0.3, 2.0, True, False), (1.0, 0.0, True, True), (0.0, 1.0, False, False)],
)
def test_value_and_gradient_follow_the_definition(shape, classes, dice_weight, ce_weight, include_background, batch):
    logits, label = make(shape, classes)
    arguments = (label, dice_weight, ce_weight, include_background, batch)
    x = torch.tensor(logits, requires_grad=True)
    loss = DiceCELoss(dice_weight, ce_weight, include_background, batch)(x, torch.tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(loss_in_numpy(logits, *arguments), abs=1e-9)
    np.testing.assert_allclose(x.grad.numpy(), gradient_in_numpy(logits, *arguments), atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint64, torch.int64, torch.float32])
def test_the_label_may_have_any_dtype(dtype):
    logits, label = make((4, 5), 3)
    x, y = torch.tensor(logits), torch.tensor(label).to(dtype)
    expected = pytest.approx(loss_in_numpy(logits, label, 1, 1, False, True))
    assert (DiceCELoss()(x, y).item(), PyramidLoss()([x], y).item()) == (expected, expected)
    ignored = DiceCELoss(ignore_index=2)(x, torch.tensor(label))
    torch.testing.assert_close(DiceCELoss(ignore_index=2)(x, y), ignored)


@pytest.mark.parametrize("regions", [None, [(1, 2), (300,)]])
def test_an_index_beyond_the_dtype_of_the_label_is_that_of_no_voxel(regions):
    logits, label = make((4, 5), 2)
    x, y = torch.tensor(logits), torch.tensor(label)
    y[0, 0, 0] = 44 if regions else 1
    wide = y.long()
    for ignore_index in (-1, 256):
        loss = DiceCELoss(regions=regions, ignore_index=ignore_index)
        assert loss(x, y.to(torch.uint8)).item() == loss(x, wide).item()
        pyramid = PyramidLoss(regions=regions, ignore_index=ignore_index)
        assert pyramid([x], y.to(torch.uint8)).item() == pyramid([x], wide).item()


def test_an_absent_class_costs_its_false_positives_only():
    logits, label = make((6, 7), 3)
    label[label == 2] = 0
    x = torch.tensor(logits, requires_grad=True)
    loss = DiceCELoss()(x, torch.tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(loss_in_numpy(logits, label, 1, 1, False, True))
    assert x.grad.isfinite().all()
    only_background = torch.zeros(2, 1, 6, 7)
    sure = torch.zeros(2, 3, 6, 7)
    sure[:, 0] = 60
    assert DiceCELoss()(sure, only_background).item() == pytest.approx(0, abs=1e-6)
    assert DiceCELoss(cross_entropy_weight=0)(-sure, only_background).item() == pytest.approx(1, abs=1e-5)


def test_a_perfect_prediction_costs_nothing_and_extreme_logits_stay_finite():
    _, label = make((4, 4, 4), 3)
    onehot = torch.nn.functional.one_hot(torch.tensor(label[:, 0]), 3).movedim(-1, 1).float()
    assert DiceCELoss()(100 * onehot, torch.tensor(label)).item() == pytest.approx(0, abs=1e-6)
    wrong = (-1e4 * onehot).requires_grad_()
    loss = DiceCELoss()(wrong, torch.tensor(label))
    loss.backward()
    assert loss.isfinite()
    assert wrong.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_under_autocast(dtype):
    logits, label = make((8, 8, 8), 3)
    low = torch.tensor(logits).to(dtype)
    exact = loss_in_numpy(low.double().numpy(), label, 1, 1, False, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PyramidLoss()([low], torch.tensor(label))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


def shares_in_numpy(label, steps, classes):
    """Count the voxels of each block one by one; beyond the image there are none."""
    label = label[:, 0]
    size = [-(-n // step) for n, step in zip(label.shape[1:], steps, strict=True)]
    shares = np.zeros((len(label), classes, *size))
    for index in np.ndindex(*size):
        block = label[(slice(None), *(slice(i * s, i * s + s) for i, s in zip(index, steps, strict=True)))]
        for k in range(classes):
            shares[(slice(None), k, *index)] = (block == k).reshape(len(label), -1).mean(1)
    return shares


@pytest.mark.parametrize("scale_weights", [None, (3.0, 2.0, 1.0)])
@pytest.mark.parametrize(
    ("size", "strides"),
    [((12, 10), [(1, 1), (2, 2), (4, 4)]), ((7, 9, 8), [(1, 1, 1), (2, 4, 1), (4, 8, 4)]), ((9, 9), [(1, 1), (3, 4)])],
)
def test_the_pyramid_is_the_weighted_sum_of_its_scales(size, strides, scale_weights):
    _, label = make(size, 3)
    weights = (scale_weights or (4, 2, 1))[: len(strides)]
    targets = [label, *(shares_in_numpy(label, steps, 3) for steps in strides[1:])]
    pyramid = [make(target.shape[2:], 3, seed)[0] for seed, target in enumerate(targets)]
    expected = sum(
        weight * loss_in_numpy(logits, target, 1, 1, False, True)
        for weight, logits, target in zip(weights, pyramid, targets, strict=True)
    )
    tensors = [torch.tensor(logits, requires_grad=True) for logits in pyramid]
    loss = PyramidLoss(scale_weights=scale_weights and weights, strides=strides)(tensors, torch.tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(expected / sum(weights))
    assert all(x.grad.abs().max() > 0 for x in tensors)


@pytest.mark.parametrize(("size", "strides"), [((12, 8), (4, 2)), ((8, 6, 10), (2, 2, 2)), ((9, 13), (3, 4))])
def test_strides_follow_from_the_sizes(size, strides):
    _, label = make(size, 3)
    coarse = [-(-n // step) for n, step in zip(size, strides, strict=True)]
    pyramid = [torch.tensor(make(shape, 3)[0]) for shape in (size, coarse)]
    told = PyramidLoss(strides=[(1,) * len(size), strides])
    assert PyramidLoss()(pyramid, torch.tensor(label)) == told(pyramid, torch.tensor(label))


@pytest.mark.parametrize("label_of", ["shares", "halves"])
@pytest.mark.parametrize("include_background", [False, True])
def test_shares_are_learned_as_they_are(label_of, include_background):
    """The loss is least where the probabilities are the shares: Dice 0, cross-entropy the shares' entropy."""
    _, label = make((8, 6), 3)
    shares = torch.tensor(shares_in_numpy(label, (2, 2), 3)) if label_of == "shares" else torch.full((2, 2, 4, 3), 0.5)
    shares = shares.double().clamp(1e-9)
    logits = shares.log()
    loss = DiceCELoss(1, 0, include_background)
    assert loss(logits, shares / shares.sum(1, keepdim=True)).item() == pytest.approx(0, abs=1e-6)
    for seed in range(5):
        other = logits + 0.3 * torch.randn(shares.shape, generator=torch.Generator().manual_seed(seed)).double()
        both = DiceCELoss(include_background=include_background)
        assert both(other, shares) > both(logits, shares)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("length", [24, 25])
def test_targets_lie_where_their_blocks_lie(dims, stride, length):
    """The edge of a body, read from the shares of its row of blocks, is where it is in the image."""
    for edge in range(1, length):
        label = torch.zeros(1, 1, length, *(5,) * (dims - 1))
        label[:, :, :edge] = 1
        shares = block_means(torch.cat([1 - label, label], 1), (stride,) * dims)
        inside = (torch.arange(shares.shape[2]) + 1).mul(stride).clamp(max=length).diff(prepend=torch.zeros(1).long())
        assert (shares[0, 1].flatten(1)[:, 0] * inside).sum() == pytest.approx(edge)
        torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))


@pytest.mark.parametrize("stride", [2, 4])
def test_coarse_targets_keep_the_centre_of_a_structure(stride):
    """In image voxels; the nearest voxel of even strides is half a voxel off."""
    random = np.random.default_rng(0)
    for _ in range(10):
        corner, size = random.integers(2, 9, 2), random.integers(3, 7, 2)
        label = torch.zeros(1, 1, 16, 16)
        label[:, :, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = 1
        shares = block_means(label, (stride, stride))[0, 0].double()
        places = (torch.arange(len(shares)).double() + 0.5) * stride - 0.5
        centre = [(shares.sum(1 - axis) @ places / shares.sum()).item() for axis in range(2)]
        off = np.abs(centre - (corner + (size - 1) / 2))
        assert (off <= stride / 2 - 0.5).all(), "a block knows how much it holds, not where in it"


REGIONS = [(1, 2, 3), (2, 3), (3,)]


def region_loss_in_numpy(logits, shares, weight):
    """Sigmoid, soft Dice over the batch and binary cross-entropy, all of what counts, in float64."""
    p = 1 / (1 + np.exp(-logits))
    axes = (0, *range(2, logits.ndim))
    size = (weight * (p + shares)).sum(axes)
    dice = (size - (weight * np.abs(p - shares)).sum(axes) + 1e-5) / (size + 1e-5)
    entropy = -(shares * np.log(p) + (1 - shares) * np.log(1 - p)) * weight
    return (1 - dice).mean() + entropy.sum() / (weight.sum() * len(REGIONS))


@pytest.mark.parametrize("strides", [[(1, 1)], [(1, 1), (2, 3)]])
@pytest.mark.parametrize("ignoring", [False, True])
def test_regions_follow_the_definition(strides, ignoring):
    """Overlapping regions at every scale; a block that is ignored in part counts for the rest."""
    random = np.random.default_rng(0)
    label = random.integers(0, 4, (2, 1, 6, 7))
    if ignoring:
        label[random.random(label.shape) < 0.3] = 255
        label[:, :, :2, :3] = 255
    pyramid, expected = [], 0.0
    for scale, steps in enumerate(strides):
        parts = shares_in_numpy(label, steps, 256)
        counted = 1 - parts[:, 255:]
        shares = np.stack([parts[:, list(region)].sum(1) for region in REGIONS], 1) / np.maximum(counted, 1e-30)
        pyramid.append(random.normal(size=shares.shape))
        expected += 0.5**scale * region_loss_in_numpy(pyramid[-1], shares, counted)
    loss = PyramidLoss(strides=strides, regions=REGIONS, ignore_index=255 if ignoring else None)
    tensors = [torch.tensor(logits, requires_grad=True) for logits in pyramid]
    value = loss(tensors, torch.tensor(label))
    assert value.item() == pytest.approx(expected / sum(0.5**scale for scale in range(len(strides))), rel=1e-6)
    value.backward()
    if ignoring:
        assert all((x.grad[:, :, 0, 0] == 0).all() and x.grad.any() for x in tensors)


@pytest.mark.parametrize("strides", [[(1, 1)], [(1, 1), (2, 2)]])
def test_ignored_voxels_might_as_well_not_be_there(strides):
    """Columns of the image that are ignored are left out by hand."""
    _, label = make((8, 8), 3)
    pyramid = [torch.tensor(make((8 // steps[0], 8 // steps[1]), 3, seed)[0]) for seed, steps in enumerate(strides)]
    expected = PyramidLoss(strides=strides)([x[..., : x.shape[-1] // 2] for x in pyramid], torch.tensor(label[..., :4]))
    label[..., 4:] = 255
    pyramid = [x.requires_grad_() for x in pyramid]
    loss = PyramidLoss(strides=strides, ignore_index=255)(pyramid, torch.tensor(label))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert all(not x.grad[..., x.shape[-1] // 2 :].any() for x in pyramid)


@pytest.mark.parametrize("regions", [None, [(1,), (1, 2), (2,)]])
def test_one_voxel_that_counts_is_all_there_is(regions):
    """Its loss is that of an image of one voxel, at either scale, though it fills a sixteenth of its block."""
    logits, label = torch.randn(1, 3, 4, 4).double(), torch.full((1, 1, 4, 4), 255)
    label[0, 0, 2, 1] = 2
    whole, alone = PyramidLoss(regions=regions, ignore_index=255), DiceCELoss(0, 1, regions=regions)
    coarse = logits[..., :1, :1]
    expected = 2 / 3 * alone(logits[..., 2:3, 1:2], label[..., 2:3, 1:2]) + 1 / 3 * alone(coarse, label[..., 2:3, 1:2])
    found = PyramidLoss(0, 1, regions=regions, ignore_index=255)([logits, coarse], label)
    torch.testing.assert_close(found, expected)
    assert whole([logits, coarse], label).isfinite()


@pytest.mark.parametrize("regions", [None, [(1,), (1, 2), (2,)]])
def test_where_all_is_ignored_nothing_is_learned(regions):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.full((2, 1, 4, 4), 255)
    loss = PyramidLoss(regions=regions, ignore_index=255)([logits, logits[..., ::2, ::2]], label)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_one_region_is_one_channel():
    label = torch.randint(0, 2, (2, 1, 5, 5))
    loss = DiceCELoss(regions=[(1,)])
    assert loss(40.0 * (2 * label - 1), label) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="for 1 regions: one channel each"):
        loss(torch.zeros(2, 2, 5, 5), label)


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_default_weights_halve_and_sum_to_one(scales):
    weights = PyramidLoss().weights(scales)
    assert sum(weights) == pytest.approx(1)
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(weights))


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        ((2, 3, 4, 4), np.full((2, 1, 4, 4), 3), "numbered 0 to 2"),
        ((2, 3, 4, 4), np.full((2, 1, 4, 4), -1), "from -1"),
        ((2, 3, 4, 4), np.full((2, 1, 4, 4), np.nan), "nan"),
        ((2, 3, 4, 4), np.full((2, 1, 4, 4), 0.5), "between class indices"),
        ((2, 3, 4, 4), np.zeros((2, 3, 4, 4)), r"\(batch, 1"),
        ((2, 3, 4, 4), np.zeros((2, 4, 4)), r"\(batch, 1"),
        ((2, 3, 4, 4), np.zeros((1, 1, 4, 4)), r"\(batch, 1"),
        ((2, 3, 4, 4), np.zeros((2, 1, 4, 5)), "spatial shape"),
        ((2, 1, 4, 4), np.zeros((2, 1, 4, 4)), "two classes"),
    ],
)
def test_wrong_labels_are_named(logits, label, message):
    for loss, prediction in ((DiceCELoss(), torch.zeros(logits)), (PyramidLoss(), [torch.zeros(logits)])):
        with pytest.raises(ValueError, match=message):
            loss(prediction, torch.tensor(label))


def test_wrong_weights_are_refused():
    label, logits = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="not be negative"):
        DiceCELoss(-1, 1)
    with pytest.raises(ValueError, match="nor both 0"):
        DiceCELoss(0, 0)
    with pytest.raises(ValueError, match="scale_weights"):
        PyramidLoss(scale_weights=(0, 0))
    with pytest.raises(ValueError, match="3 scale_weights for 1"):
        PyramidLoss(scale_weights=(1, 1, 1))([logits], label)
    with pytest.raises(ValueError, match="a list of logits"):
        PyramidLoss()(logits, label)
    with pytest.raises(ValueError, match="2 scales for 1"):
        PyramidLoss(strides=[(1, 1), (2, 2)])([logits], label)
    for strides in (None, [(1, 1), (2, 2)]):
        with pytest.raises(ValueError, match=r"logits of \(3, 3\) voxels do not lie \(2, 2\) voxels apart"):
            PyramidLoss(strides=strides)([logits, torch.zeros(1, 2, 3, 3)], label)
    for shares in (torch.full((1, 2, 4, 4), 0.4), torch.tensor([-0.5, 1.5]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)):
        with pytest.raises(ValueError, match="summing to 1"):
            DiceCELoss()(logits, shares)


def test_on_the_meta_device_a_shape_comes_out():
    logits = torch.zeros(2, 3, 4, 5, device="meta", requires_grad=True)
    loss = DiceCELoss().of_classes(logits, torch.zeros(2, 1, 4, 5, device="meta"))
    loss.backward()
    assert (loss.device.type, loss.shape, logits.grad.shape) == ("meta", (), logits.shape)
