"""The mean of several networks, slab by slab, against all of their probabilities at once."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.special import entr, expit, softmax
from torch import nn

from dlka_med.config.dataset import Intensity
from dlka_med.data.grey import Measured, measure
from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.inference import ensemble as module
from dlka_med.inference.ensemble import mean_logits
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import build_run_network

from .test_members import make_folds
from .test_predict import read, write_image

TEMPERATURES = (1.0, 0.4, 2.5)
SHAPE = (6, 9, 7)


def networks_of(dims=3, outputs=4, members=3) -> list[nn.Module]:
    torch.manual_seed(0)
    conv = nn.Conv3d if dims == 3 else nn.Conv2d
    return [nn.Sequential(conv(2, 8, 3, padding=1), nn.GELU(), conv(8, outputs, 1)) for _ in range(members)]


def chances_of(logits, temperature, regions) -> np.ndarray:
    scaled = logits.numpy().astype(np.float64) / temperature
    return expit(scaled) if regions else softmax(scaled, axis=0)


def case(dims=3, native=None, seed=0) -> Prepared:
    image = 4 * np.random.default_rng(seed).normal(size=(2, *SHAPE[:dims])).astype(np.float32)
    native = np.eye(dims + 1) if native is None else native
    shape = tuple(int(size / scale) for size, scale in zip(SHAPE[:dims], np.diag(native), strict=False))
    return Prepared("a", image, None, np.eye(dims + 1), shape, native)


def streams(logits, steps, along=1):
    for start in range(0, logits.shape[along + 1], steps):
        yield start, logits.movedim(along + 1, 1)[:, start : start + steps].clone()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("numbers", [1, 300, 2**22])
def test_the_mean_of_probabilities_and_their_disagreement(regions, numbers, monkeypatch):
    monkeypatch.setattr(module, "AVERAGED_NUMBERS", numbers)
    members = [5 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    members[2][1] = -3000
    slabs = list(mean_logits([streams(m, 4) for m in members], TEMPERATURES, regions=regions, disagreement=True))
    starts = [start for start, _ in slabs]
    assert starts == [sum(part.shape[1] for _, part in slabs[:i]) for i in range(len(slabs))]
    found = torch.cat([part for _, part in slabs], dim=1).movedim(1, 2).numpy()
    chances = [chances_of(m, t, regions) for m, t in zip(members, TEMPERATURES, strict=True)]
    mean = np.mean(chances, axis=0)
    got = expit(found[:4]) if regions else softmax(found[:4], axis=0)
    np.testing.assert_allclose(got, mean, atol=1e-6)
    if regions:
        each = [entr(p) + entr(1 - p) for p in chances]
        expected = ((entr(mean) + entr(1 - mean)) - np.mean(each, axis=0)).max(axis=0) / np.log(2)
    else:
        expected = (entr(mean).sum(0) - np.mean([entr(p).sum(0) for p in chances], axis=0)) / np.log(4)
    np.testing.assert_allclose(found[4], expected, atol=1e-5)
    assert (found[4] >= 0).all()
    assert 0.1 < found[4].max() <= 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("painted", [None, (1, 3, 2, 4)])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_probabilities_and_labels_are_those_of_the_plain_mean(dims, painted, scale):
    native = np.diag([scale] * dims + [1.0])
    prepared, networks = case(dims, native), networks_of(dims)
    options = {"patch_size": SHAPE[:dims], "painted": painted}
    predictor = Predictor(networks, temperature=TEMPERATURES, **options)
    with torch.no_grad():
        logits = [network(torch.from_numpy(prepared.image)[None])[0] for network in networks]
    mean = np.mean([chances_of(x, t, painted) for x, t in zip(logits, TEMPERATURES, strict=True)], axis=0)
    places = np.indices(prepared.native_shape) * scale
    expected = np.stack([map_coordinates(chance, places, order=1, mode="nearest") for chance in mean])
    found = predictor.probabilities(prepared)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    decided = np.zeros(prepared.native_shape, np.uint8)
    if painted is None:
        decided = expected.argmax(axis=0)
        sure = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 1e-4
    else:
        for index, chance in zip(painted, expected, strict=True):
            decided[chance > 0.5] = index
        sure = (np.abs(expected - 0.5) > 1e-4).all(axis=0)
    labels = predictor.segment(prepared)
    np.testing.assert_array_equal(labels[sure], decided[sure])
    assert sure.mean() > 0.95
    assert len(np.unique(labels)) > 3
    alone = Predictor(networks[0], **options).segment(prepared)
    assert (alone != labels).mean() > 0.05


@pytest.mark.parametrize("painted", [None, (1, 3, 2, 4)])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_an_ensemble_of_one_is_the_run_itself(painted, scale):
    prepared, (network,) = case(3, np.diag([scale] * 3 + [1.0])), networks_of(members=1)
    options = {"patch_size": (4, 5, 4), "painted": painted, "temperature": 2.5}
    one, itself = Predictor([network], **options), Predictor(network, **options)
    np.testing.assert_array_equal(one.segment(prepared), itself.segment(prepared))
    np.testing.assert_array_equal(one.probabilities(prepared), itself.probabilities(prepared))


def test_members_with_windows_take_turns_and_count_together():
    prepared, networks, steps = case(), networks_of(), []
    options = {"patch_size": (4, 5, 4), "mirror_axes": (1,), "batch_size": 3}
    predictor = Predictor(networks, temperature=TEMPERATURES, **options)
    each = [Predictor(network, **options).prepared_logits(prepared) for network in networks]
    mean = np.mean([chances_of(x, t, False) for x, t in zip(each, TEMPERATURES, strict=True)], axis=0)
    found = predictor.prepared_logits(prepared, lambda *step: steps.append(step))
    np.testing.assert_allclose(found.softmax(0), mean, atol=1e-5)
    total = 3 * predictor.layout(SHAPE, np.eye(4)).count
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1] == (total, total)


def test_each_member_scales_greys_by_its_own_numbers():
    networks, raw = networks_of(), case()
    whole = measure("a", raw.image, None, (0, 0, 0), SHAPE)
    raw = Prepared(*[getattr(raw, name) for name in ("case_id", "image", "label", "affine", "native_shape")], np.eye(4))
    raw = Prepared(**vars(raw) | {"measured": Measured(whole.channels, whole.foreground), "empty": (7.0, -2.0)})
    kinds = [
        [Intensity(kind="ct", lower=-3, upper=4 + n, mean=n, std=2 + n), Intensity(kind=kind)]
        for n, kind in enumerate(("zscore", "zscore_nonzero", "robust"))
    ]
    options = {"patch_size": (8, 5, 4)}
    each = [Predictor(n, **options).prepared_logits(raw.normalised(k)) for n, k in zip(networks, kinds, strict=True)]
    mean = np.mean([chances_of(logits, 1, False) for logits in each], axis=0)
    found = Predictor(networks, intensities=kinds, **options).prepared_logits(raw)
    np.testing.assert_allclose(found.softmax(0), mean, atol=1e-6)
    with pytest.raises(ValueError, match="take prepared cases: use prepared_logits"):
        Predictor(networks, intensities=kinds, **options).logits(torch.from_numpy(raw.image))


@pytest.mark.parametrize("wrong", [{"temperature": (1, 2)}, {"temperature": (1, 2, 0)}, {"intensities": [()]}])
def test_numbers_that_do_not_fit_the_members_are_refused(wrong):
    with pytest.raises(ValueError, match="temperature"):
        Predictor(networks_of(), patch_size=(4, 4, 4), **wrong)


def write_folds(folder, number=2, **changes):
    """Folds with weights of their own."""
    folds = make_folds(folder, number, **changes)
    for fold in range(number):
        torch.manual_seed(fold)
        run = folds.run(fold)
        run.save_weights(build_run_network(run.config).state_dict())
    return folds


def test_a_folder_of_folds_predicts_files(tmp_path):
    folds = write_folds(tmp_path / "folds")
    shape = (11, 8, 9)
    write_image(tmp_path / "scan.nii.gz", shape=shape)
    (path,) = predict_images(folds.path, tmp_path / "scan.nii.gz", tmp_path / "out")
    image = np.asarray(nib.load(tmp_path / "scan.nii.gz").dataobj, np.float32)[None]
    runs = [folds.run(fold) for fold in range(2)]
    logits = [Predictor.of_run(run.path).logits(torch.from_numpy(image)) for run in runs]
    expected = np.mean([chances_of(x, 1, False) for x in logits], axis=0).argmax(0)
    assert (read(path) == np.array([0, 3, 7])[expected]).mean() > 0.99
    singles = [read(*predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / run.path.name)) for run in runs]
    assert all((single != read(path)).any() for single in singles)
    both = [run.path for run in runs]
    (named,) = predict_images(both, tmp_path / "scan.nii.gz", tmp_path / "named")
    np.testing.assert_array_equal(read(named), read(path))


def test_a_split_that_differs_between_members_is_refused(tmp_path):
    folds = write_folds(tmp_path / "folds")
    write_image(tmp_path / "images" / "scan0.nii.gz")
    split = {"train": ["scan2"], "validation": ["scan0"], "test": []}
    folds.run(1).split_file.write_text(json.dumps(split))
    with pytest.raises(InputError, match=r"validation cases of .*fold_0 and .*fold_1 differ"):
        predict_images(folds.path, tmp_path / "images", tmp_path / "out", split="validation")
