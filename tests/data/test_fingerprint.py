"""What one pass over a case tells, and how long it is kept."""

import json
import os
import random
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from dlka_med.data import fingerprint as module
from dlka_med.data.boxes import foreground_box
from dlka_med.data.case_facts import FOREGROUND_PERCENTILES, CaseFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.fingerprint import fingerprint, read_case
from dlka_med.data.grey import measure
from dlka_med.data.nifti import nifti_grid
from dlka_med.errors import InputError


@pytest.fixture
def two_channels(make_case):
    random = np.random.default_rng(0)
    image = np.zeros((2, 9, 10, 11), np.float32)
    image[:, 1:8, 2:9, 3:9] = random.normal(100, 20, (2, 7, 7, 6)).astype(np.float32)
    label = np.zeros((9, 10, 11), np.uint8)
    label[2:6, 3:7, 4:8] = 1
    label[3, 4, 5] = 5
    affine = np.array([[0, 0, 2.0, 1], [-1.5, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]])
    return make_case("two", image, label, affine), image, label


def test_a_case_is_told_as_it_is(two_channels):
    case, image, label = two_channels
    facts = read_case(case, ["T1", "T2"])
    assert facts.is_readable
    assert (facts.size, facts.spacing, facts.orientation) == ((9, 10, 11), (1.5, 1.0, 2.0), "PSR")
    assert facts.cropped == (7, 7, 6)
    assert facts.label.voxels == {value: int((label == value).sum()) for value in (0, 1, 5)}
    for channel, array in zip(facts.channels, image, strict=True):
        inside = array[label > 0].astype(np.float64)
        assert (channel.minimum, channel.maximum) == (array.min(), array.max())
        assert channel.foreground.voxels == inside.size
        np.testing.assert_allclose(channel.foreground.percentiles, np.percentile(inside, FOREGROUND_PERCENTILES))
        np.testing.assert_allclose([channel.foreground.mean, channel.foreground.std], [inside.mean(), inside.std()])


@pytest.mark.parametrize("value", [1, 255])
def test_whatever_value_marks_the_foreground(make_case, value):
    image = np.random.default_rng(0).normal(100, 10, (6, 7, 8)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[2:4, 3:6, 1:5] = value
    (channel,) = read_case(make_case("mask", image, label), ["CT"]).channels
    assert channel.foreground.voxels == 24
    np.testing.assert_allclose(channel.foreground.mean, image[label > 0].mean(), rtol=1e-6)


def test_grey_values_are_those_that_training_measures(two_channels):
    case, image, label = two_channels
    expected = measure(case.id, image, label, *foreground_box(image)).channels
    assert tuple(channel.grey for channel in read_case(case, ["T1", "T2"]).channels) == expected


def test_facts_come_back_from_json(two_channels):
    case, *_ = two_channels
    facts = read_case(case, ["T1", "T2"])
    assert CaseFacts.of_json(json.loads(json.dumps(facts.to_json(), allow_nan=False))) == facts


def test_the_digest_is_of_the_voxels_alone(tmp_path, save):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    files = [
        save(tmp_path / "a.nii.gz", voxels),
        save(tmp_path / "b.nii", voxels.astype(np.float32), np.diag([2.0, 2, 2, 1])),
        save(tmp_path / "c.nii.gz", voxels.reshape(3, 2, 4)),
        save(tmp_path / "d.nii.gz", voxels + 1),
    ]
    digests = [read_case(Case(file.name, (file,)), ["MRI"]).channels[0].digest for file in files]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_channels_of_one_file_and_of_many_are_the_same(tmp_path, save, two_channels):
    case, image, _ = two_channels
    file = save(tmp_path / "one.nii.gz", np.moveaxis(image, 0, -1))
    whole = read_case(Case("one", (file,), order=(1, 0)), ["T2", "T1"])
    parts = read_case(Case("many", case.images), ["T1", "T2"])
    assert [channel.digest for channel in whole.channels] == [channel.digest for channel in parts.channels[::-1]]


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x1f\x8b\x08\x00broken", bytes(400)], ids=["empty", "text", "gzip", "zeros"]
)
@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.png", "x.tif", "x.jpg"])
def test_a_broken_file_is_a_fact(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    facts = read_case(Case("x", (tmp_path / name,), tmp_path / name), ["MRI"])
    assert not facts.is_readable
    assert facts.channels == ()
    assert (facts.images[0].bytes, facts.images[0].shape) == (len(content), ())
    assert str(tmp_path / name) in facts.images[0].problem


def test_a_missing_file_and_a_folder_are_facts(tmp_path):
    (tmp_path / "folder.png").mkdir()
    facts = read_case(Case("x", (tmp_path / "none.png",), tmp_path / "folder.png"), ["grey"])
    assert (facts.images[0].bytes, facts.is_readable) == (None, False)
    assert "folder" in facts.label.file.problem


def test_a_lack_of_memory_is_no_fact(random_cases, monkeypatch, user_cache):
    def lack(*args, **others):
        raise MemoryError("7 GiB")

    cases = random_cases(2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "measure", lack)
        with pytest.raises(InputError, match=r"there is not enough memory \(7 GiB\): use fewer workers"):
            fingerprint(cases, ["MRI"], workers=0)
    assert all(facts.is_readable for facts in fingerprint(cases, ["MRI"], workers=0))


def test_voxels_that_are_not_finite_are_counted_and_left_out(tmp_path, save):
    image = np.random.default_rng(0).normal(100, 10, (6, 6, 6)).astype(np.float32)
    image[0, 0, :3] = np.nan, np.inf, 3e38
    facts = read_case(Case("x", (save(tmp_path / "x.nii.gz", image),)), ["MRI"])
    [channel] = facts.channels
    assert (channel.nan, channel.infinite, channel.voxels) == (1, 2, 216)
    usable = image[np.abs(image) < 1e30]
    assert (channel.minimum, channel.maximum) == (usable.min(), usable.max())
    json.dumps(facts.to_json(), allow_nan=False)


def test_an_affine_of_nan_becomes_json(tmp_path, save):
    path = save(tmp_path / "x.nii", np.ones((2, 3, 4), np.float32))
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    facts = read_case(Case("x", (path,)), ["MRI"])
    assert facts.images[0].affine[0][0] is None
    assert facts.orientation == ""
    assert CaseFacts.of_json(json.loads(json.dumps(facts.to_json(), allow_nan=False))) == facts


def test_dims_are_those_of_the_grid(tmp_path):
    """Whatever the name; of a file that cannot be opened the name says it."""
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "y.nii.gz").write_bytes(b"damaged")
    (tmp_path / "z.png").write_bytes(b"damaged")
    found = [read_case(Case("x", (tmp_path / name,)), ["a"]) for name in ("x.png", "y.nii.gz", "z.png")]
    assert [facts.dims for facts in found] == [2, 3, 2]


def test_pictures_tell_mode_and_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(tmp_path / "x.png", exif=exif)
    facts = read_case(Case("x", (tmp_path / "x.png",)), ["R", "G", "B"])
    assert (facts.images[0].mode, facts.images[0].exif, facts.size, facts.dims) == ("RGB", 6, (5, 4), 2)
    assert (facts.images[0].channels, len(facts.channels)) == (3, 3)


def test_two_forms_of_an_affine_are_compared(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
    shifted = np.eye(4)
    shifted[0, 3] = 4
    image.set_sform(np.eye(4), 1)
    image.set_qform(shifted, 1)
    nib.save(image, tmp_path / "x.nii")
    assert read_case(Case("x", (tmp_path / "x.nii",)), ["MRI"]).images[0].forms_apart == pytest.approx(4)


@pytest.fixture
def reads(monkeypatch):
    """Ids of the cases that are read."""
    done = []
    read = module.read_case

    def follow(case, channels):
        done.append(case.id)
        return read(case, channels)

    monkeypatch.setattr(module, "read_case", follow)
    return done


def test_facts_are_kept_while_the_files_are_the_same(random_cases, reads, user_cache):
    cases = random_cases(2)
    first = fingerprint(cases, ["MRI"], workers=0)
    assert reads == ["case_0", "case_1"]
    assert fingerprint(cases, ["MRI"], workers=0) == first
    assert reads == ["case_0", "case_1"]
    os.utime(cases[1].label, ns=(1, 1))
    assert fingerprint(cases, ["MRI"], workers=0)[0] == first[0]
    assert reads == ["case_0", "case_1", "case_1"]
    assert len(list((user_cache / "facts").rglob("*.json"))) == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"format": 1}'])
def test_damaged_facts_are_read_anew(random_cases, reads, user_cache, content):
    cases = random_cases(1)
    first = fingerprint(cases, ["MRI"], workers=0)
    [file] = (user_cache / "facts").rglob("*.json")
    file.write_text(content)
    assert fingerprint(cases, ["MRI"], workers=0) == first
    assert reads == ["case_0", "case_0"]


def test_a_cache_that_cannot_be_written_stops_nobody(random_cases, user_cache):
    user_cache.parent.mkdir(parents=True, exist_ok=True)
    user_cache.touch()
    assert fingerprint(random_cases(1), ["MRI"], workers=0)[0].is_readable


def test_workers_tell_the_same(random_cases, user_cache):
    cases = random_cases(3)
    together = fingerprint(cases, ["MRI"], workers=2)
    assert together == tuple(read_case(case, ["MRI"]) for case in cases)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_in_a_header_are_facts(tmp_path, seed):
    draw, path = random.Random(seed), tmp_path / "x.nii"
    image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(5, 6, 7), np.eye(4))
    image.set_qform(np.eye(4), 1)
    nib.save(image, path)
    sound = path.read_bytes()
    for _ in range(40):
        content = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(352)] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
        path.write_bytes(content)
        facts = read_case(Case("x", (path,), path), ["MRI"])
        assert CaseFacts.of_json(json.loads(json.dumps(facts.to_json(), allow_nan=False))) == facts


@pytest.mark.parametrize(
    ("ending", "voxels"), [(".mhd", ".raw"), (".hdr", ".img"), (".nrrd", ".nrrd"), (".mha", ".mha")]
)
def test_other_formats_are_told_as_nifti_is(two_channels, tmp_path, ending, voxels):
    """The same case in another format, but for its files; and facts do not outlive a change of the voxels."""
    case, image, label = two_channels
    grid = nifti_grid(case.images[0])
    images, masks = tmp_path / "other" / "images", tmp_path / "other" / "labels"
    for folder in (images, masks):
        folder.mkdir(parents=True)

    def write(path, values):
        if ending == ".hdr":
            nib.save(nib.Nifti1Pair(values, grid.affine), path)
        else:
            lps = np.diag([-1, -1, 1, 1]) @ grid.affine
            made = SimpleITK.GetImageFromArray(np.moveaxis(values, 2, 0).swapaxes(1, 2), isVector=values.ndim == 4)
            made.SetSpacing(np.linalg.norm(lps[:3, :3], axis=0).tolist())
            made.SetDirection((lps[:3, :3] / made.GetSpacing()).ravel().tolist())
            made.SetOrigin(lps[:3, 3].tolist())
            SimpleITK.WriteImage(made, str(path))
        return path

    other = Case(
        case.id, (write(images / f"a{ending}", np.moveaxis(image, 0, -1)),), write(masks / f"a{ending}", label)
    )
    (kept,) = fingerprint([other], ["T1", "T2"], workers=1)
    expected = read_case(case, ["T1", "T2"])
    assert kept.is_readable
    for name in ("size", "spacing", "orientation", "cropped"):
        assert getattr(kept, name) == getattr(expected, name)
    assert [replace(one, path="") for one in kept.channels] == [replace(one, path="") for one in expected.channels]
    assert kept.label.voxels == expected.label.voxels
    assert [file.dtype for file in kept.files] == ["float32", "uint8"]
    write(images / f"b{ending}", np.moveaxis(image + 1, 0, -1))
    os.replace(images / f"b{voxels}", images / f"a{voxels}")
    os.utime(images / f"a{voxels}", ns=(0, 0))
    (changed,) = fingerprint([other], ["T1", "T2"], workers=1)
    assert changed.channels[0].maximum == expected.channels[0].maximum + 1
