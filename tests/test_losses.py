import itertools

import numpy as np
import pytest
import torch

from dlka_med.losses import DiceCELoss, PyramidLoss, resize_label


def loss_in_numpy(logits, label, dice_weight, ce_weight, include_background, batch):
    """The definition, in float64, without torch or MONAI."""
    logits, label = logits.astype(np.float64), label[:, 0].astype(int)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    classes = logits.shape[1]
    onehot = np.stack([label == k for k in range(classes)], 1).astype(np.float64)
    axes = (*((0,) if batch else ()), *range(2, logits.ndim))
    smooth = 1e-5
    both = (probabilities * onehot).sum(axes)
    dice = (2 * both + smooth) / (probabilities.sum(axes) + onehot.sum(axes) + smooth)
    dice = dice if include_background else dice[..., 1:]
    cross_entropy = -np.log((probabilities * onehot).sum(1)).mean()
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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_the_label_may_have_any_dtype(dtype):
    logits, label = make((4, 5), 3)
    loss = DiceCELoss()(torch.tensor(logits), torch.tensor(label).to(dtype))
    assert loss.item() == pytest.approx(loss_in_numpy(logits, label, 1, 1, False, True))


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


@pytest.mark.parametrize("scale_weights", [None, (3.0, 2.0, 1.0)])
@pytest.mark.parametrize("shapes", [[(12, 10), (6, 5), (3, 2)], [(7, 9, 8), (3, 4, 3), (2, 3, 2)]])
def test_the_pyramid_is_the_weighted_sum_of_its_scales(shapes, scale_weights):
    _, label = make(shapes[0], 3)
    pyramid = [make(shape, 3, seed)[0] for seed, shape in enumerate(shapes)]
    expected = 0.0
    for logits, weight in zip(pyramid, scale_weights or (4, 2, 1), strict=True):
        small = label
        for axis, (old, new) in enumerate(zip(label.shape[2:], logits.shape[2:], strict=True), 2):
            centres = (np.arange(new) + 0.5) * old / new - 0.5
            nearest = np.array([np.argmin(np.abs(np.arange(old) - centre - 1e-6)) for centre in centres])
            small = small.take(nearest, axis)
        expected += weight * loss_in_numpy(logits, small, 1, 1, False, True) / sum(scale_weights or (4, 2, 1))
    tensors = [torch.tensor(logits, requires_grad=True) for logits in pyramid]
    loss = PyramidLoss(scale_weights=scale_weights)(tensors, torch.tensor(label))
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert all(x.grad.abs().max() > 0 for x in tensors)


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_default_weights_halve_and_sum_to_one(scales):
    weights = PyramidLoss().weights(scales)
    assert sum(weights) == pytest.approx(1)
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(weights))


@pytest.mark.parametrize(("old", "new"), [(9, 4), (10, 3), (8, 4), (128, 32), (5, 5)])
def test_a_resized_label_keeps_its_place(old, new):
    """A voxel of the small label comes from within half a voxel of its own centre."""
    ramp = torch.arange(old).reshape(1, 1, old, 1).expand(1, 1, old, 3)
    small = resize_label(ramp, (new, 3))[0, 0, :, 0].double()
    centres = (torch.arange(new).double() + 0.5) * old / new - 0.5
    assert (small - centres).abs().max() <= 0.5
    assert small.unique().numel() == new


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


def test_on_the_meta_device_a_shape_comes_out():
    logits = torch.zeros(2, 3, 4, 5, device="meta", requires_grad=True)
    loss = DiceCELoss().unchecked(logits, torch.zeros(2, 1, 4, 5, device="meta"))
    loss.backward()
    assert (loss.device.type, loss.shape, logits.grad.shape) == ("meta", (), logits.shape)
