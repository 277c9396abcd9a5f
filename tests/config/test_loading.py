"""Configs: what is accepted, what is refused and with which words."""

import codecs
import random
from pathlib import Path

import pytest

from dlka_med.config.loading import json_schema, load_config, one_line, save_config
from dlka_med.errors import InputError

MINIMAL = """\
name: small
dataset:
  root: data
network:
  name: dlka_net_3d
  channels: [8, 16]
  depths: [1, 1]
  strides: [[2, 2, 2], [2, 2, 2]]
  supervised_scales: 2
training:
  patch_size: [16, 16, 16]
"""
FLAT = """\
name: flat
dataset:
  root: data
network:
  name: dlka_net_2d
training:
  patch_size: [64, 96]
"""
ODD = [*"aé日😀'\"#:{}[]|>%@`&*!-?\\~ \n\r\t", ": ", " #", "\n---\n", "\n...\n"]
ODD += ["\x07", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe"]
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return path

    return _write


def test_defaults_are_filled_in(write):
    config = load_config(write(MINIMAL))
    assert config.training.patch_size == (16, 16, 16)
    assert config.training.optimizer.name == "sgd"
    assert config.dataset.folds == 5


def test_overrides_replace_and_add_values(write):
    config = load_config(
        write(MINIMAL),
        ["training.minutes=2.5", "dataset.root=../else where", "training.optimizer.learning_rate=2e-3"],
    )
    assert config.training.minutes == 2.5
    assert config.dataset.root == "../else where"
    assert config.training.optimizer.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "  patch_size:",
            "  pach_size:",
            11,
            ["unknown key 'training.pach_size'", "did you mean 'patch_size'"],
        ),
        ("dataset:\n", "datasets:\n", 2, ["unknown key 'datasets'", "did you mean 'dataset'"]),
        ("  root: data", "  root: data\n  fold: 7", 2, ["dataset", "0 to 4"]),
        ("  root: data", "  root: data\n  folds: 1", 4, ["dataset.folds: expected a number of folds, 2 or more, or"]),
        ("  root: data", "  root: data\n  folds: [a]", 4, ["dataset.folds: expected a number of folds", "found ['a']"]),
        ("  root: data", "  root: data\n  fold: none", 4, ["dataset.fold: expected", "counted from 0, or all"]),
        ("[8, 16]", "[8, x]", 6, ["network.channels.1", "'x'"]),
        ("[8, 16]", "[8, 16, 32]", 4, ["network", "one entry per stage"]),
        ("dlka_net_3d", "dlka_net_3", 5, ["network.name", "did you mean 'dlka_net_3d'"]),
        ("[16, 16, 16]", "[16, 16]", 1, ["training.patch_size has 2 axes"]),
        ("  name: dlka_net_3d\n", "", 4, ["'network.name' is missing"]),
        ("  name: dlka_net_3d\n  channels: [8, 16]", "  name: dlka_net_2d\n  chanels: 3", 6, ["encoder, pretrained"]),
        ("[16, 16, 16]", "[16, 0, 16]", 11, ["training.patch_size.1", "greater than 0"]),
        ("name: small", "name: small\nname: again", 2, ["'name' stands twice"]),
        ("  root: data", "  root: [", 5, ["not valid YAML"]),
        ("  root: data", "  root: {{data}}", 3, ["not valid YAML", "key", "quotes"]),
        ("supervised_scales: 2", "supervised_scales: 4", 4, ["network", "supervised_scales is 4", "2 stages"]),
        ("[16, 16, 16]", "[4, 4, 4]\n  batch_size: 1", 1, ["training.patch_size [4, 4, 4]", "network.norm batch"]),
    ],
)
def test_a_mistake_is_named_with_its_line(write, old, new, line, words):
    with pytest.raises(InputError) as caught:
        load_config(write(MINIMAL.replace(old, new, 1)))
    message = str(caught.value)
    assert f"small.yaml, line {line}:" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.minuts=3", ["-s training.minuts", "did you mean 'minutes'"]),
        ("training.minutes", ["expected key=value"]),
        ("name.first=3", ["name is a value"]),
        ("training.clock=processor", ["training", "clock: processor measures the work of one process on a CPU"]),
        ("training.minutes=-1", ["-s training.minutes", "greater than 0"]),
        ("training.precision=fp23", ["-s training.precision", "fp32"]),
        ("seed=18446744073709551616", ["seed: Input should be less than 9223372036854775808"]),
        ("dataset.root={{data}}", ["-s dataset.root", "not a YAML value"]),
        ("name=2024-99-99", ["-s name=2024-99-99", "not a YAML value"]),
        ("seed=" + "9" * 5000, ["-s seed=999", "not a YAML value"]),
        ("training.loss={dice_weight: 0, cross_entropy_weight: 0}", ["training.loss", "dice_weight", "both 0"]),
        ("training.loss.scale_weights=[1, 1, 1]", ["training.loss.scale_weights has 3", "supervised_scales is 2"]),
        ("inference.mirror_axes=[0, 0]", ["inference.mirror_axes", "0 is named twice"]),
        ("preprocessing.orientation=RLA", ["preprocessing.orientation", "one letter of each", "'RLA'"]),
        ("preprocessing.orientation=RAX", ["preprocessing.orientation", "one letter of each"]),
        ("preprocessing.orientation=''", ["preprocessing.orientation", "one letter of each"]),
        ("preprocessing.orientation=RASS", ["preprocessing.orientation", "one letter of each"]),
        ("preprocessing.orientation=RAA", ["preprocessing.orientation", "one letter of each"]),
        ("preprocessing.intensity=[{kind: ct, lower: 5, upper: -5}]", ["preprocessing.intensity", "less than upper"]),
        ("training.augmentation.scale_range=[1.4, 0.7]", ["training.augmentation.scale_range", "[0.7, 1.4]"]),
        (
            "training.augmentation.low_resolution_range=[0.5, 1.5]",
            ["low_resolution_range.1", "less than or equal to 1"],
        ),
        ("training.augmentation.low_resolution_range=[0.9, 0.5]", ["low_resolution_range", "[0.5, 0.9]"]),
    ],
)
def test_a_wrong_override_is_named(write, override, words):
    with pytest.raises(InputError) as caught:
        load_config(write(MINIMAL), [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        (FLAT, "training.patch_size=[64, 64, 64]", ["training.patch_size has 3 axes", "dlka_net_2d is 2D"]),
        (MINIMAL, "training.patch_size=[64, 64]", ["training.patch_size has 2 axes", "dlka_net_3d is 3D"]),
        (MINIMAL, "dataset.slices=axial", ["dataset.slices is axial", "sees whole volumes", "null"]),
        (FLAT, "dataset.slices=axail", ["dataset.slices", "did you mean 'axial'"]),
        (FLAT, "preprocessing.spacing=[1, 1, 1]", ["preprocessing.spacing has 3 axes", "reads 2D images"]),
        (FLAT, "inference.mirror_axes=[2]", ["inference.mirror_axes is [2]", "0 to 1"]),
        (FLAT, "training.augmentation.flip_axes=[0, 2]", ["training.augmentation.flip_axes is [0, 2]", "0 to 1"]),
        (FLAT, "network.depths=[1, 1]", ["network.depths", "-s network.depths"]),
        (FLAT, "network.supervised_scales=5", ["network.supervised_scales", "4"]),
        (FLAT, "network.channels=[4, 8]", ["unknown key 'network.channels'", "encoder"]),
    ],
)
def test_dimensions_agree(write, text, override, words):
    with pytest.raises(InputError) as caught:
        load_config(write(text), [override])
    for word in words:
        assert word in str(caught.value)


def test_one_stride_is_that_of_all_axes(write):
    strides = load_config(write(MINIMAL), ["network.strides=[2, [1, 2, 2]]"]).network.strides
    assert strides == ((2, 2, 2), (1, 2, 2))
    with pytest.raises(InputError, match=r"network\.strides"):
        load_config(write(MINIMAL), ["network.strides=[0, [1, 2, 2]]"])


def test_cases_of_a_2d_network_are_images_or_slices_of_volumes(write):
    assert load_config(write(FLAT), ["preprocessing.spacing=[2, 2]"]).image_dims == 2
    slices = load_config(write(FLAT), ["dataset.slices=coronal", "preprocessing.spacing=[1, null, 1.5]"])
    assert (slices.image_dims, slices.preprocessing.spacing) == (3, (1, None, 1.5))
    assert load_config(write(MINIMAL)).image_dims == 3


def test_an_encoder_needs_more_than_one_deep_pixel(write):
    config = ["training.patch_size=[32, 20]", "training.batch_size=1"]
    with pytest.raises(InputError, match=r"training\.patch_size \[32, 20\] leaves one pixel"):
        load_config(write(FLAT), config)
    assert load_config(write(FLAT), [config[0], "training.batch_size=2"])


def test_a_missing_file_names_the_nearest(write):
    path = write(MINIMAL)
    with pytest.raises(InputError, match=r"did you mean .*small\.yaml\?"):
        load_config(path.with_name("smal.yaml"))


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words"])
def test_something_else_than_a_mapping_is_refused(write, text):
    with pytest.raises(InputError, match="expected a mapping"):
        load_config(write(text))


def test_yaml_cannot_build_objects(write):
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(write(MINIMAL + "seed: !!python/object/apply:os.getpid []\n"))


@pytest.mark.parametrize("text", [MINIMAL, FLAT])
def test_a_saved_config_reads_back_equal(write, tmp_path, text):
    config = load_config(
        write(text), ["preprocessing.intensity=[{kind: ct, lower: -5}]", "dataset.test_cases=[a, '7']"]
    )
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert "# " in (tmp_path / "saved.yaml").read_text()


def test_whatever_names_and_reasons_hold_is_read_back(write, tmp_path):
    config, draw = load_config(write(MINIMAL)), random.Random(0)
    for _ in range(100):
        first, second, reason = ("".join(draw.choices(ODD, k=5)) for _ in range(3))
        names = {"channels": (first,), "labels": {"background": 0, first: 1, second: 2}, "root": second}
        odd = config.model_copy(update={"dataset": config.dataset.model_copy(update=names)})
        head = f"# {one_line(reason)}\n"
        save_config(odd, tmp_path / "saved.yaml", {"name": reason, "dataset.labels": reason}, head)
        assert load_config(tmp_path / "saved.yaml") == odd
    lesion = config.dataset.model_copy(update={"labels": {"background": 0, "L\u00e4sion": 1}})
    save_config(config.model_copy(update={"dataset": lesion}), tmp_path / "saved.yaml")
    assert "labels: {background: 0, L\u00e4sion: 1}" in (tmp_path / "saved.yaml").read_text(encoding="utf-8")


def test_a_comment_is_one_line():
    assert one_line(" Liver\n\tstudy: #2\u2028\x85") == "Liver study: #2"
    assert one_line("a\x07\udcfcb\0") == "a\ufffd\ufffdb\ufffd"


def test_folds_are_a_number_or_a_file(write, tmp_path):
    text = MINIMAL.replace("  root: data", "  root: data\n  folds: splits_final.json\n  fold: 7")
    config = load_config(write(text))
    assert (config.dataset.folds, config.dataset.folds_may_leak) == ("splits_final.json", False)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_complete(path):
    config = load_config(path)
    assert config.name == path.stem
    shown = path.read_text()
    for section in ("dataset", "preprocessing", "network", "training", "inference"):
        for key in type(getattr(config, section)).model_fields:
            assert f"  {key}:" in shown, f"{section}.{key} is missing from {path.name}"


def test_a_patch_of_one_deep_voxel_needs_a_batch(write):
    text = MINIMAL.replace("[16, 16, 16]", "[4, 4, 4]")
    assert load_config(write(text), ["training.batch_size=2"]).training.patch_size == (4, 4, 4)
    with pytest.raises(InputError, match=r"network\.norm instance"):
        load_config(write(text), ["training.batch_size=2", "network.norm=instance"])


def test_json_schema_describes_every_section():
    schema = json_schema()
    assert {"dataset", "network", "training"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Preprocessing"]["properties"]["orientation"]["pattern"] == "^[RLAPSI]{3}$"


def test_files_of_windows_are_read(write):
    path = write(MINIMAL)
    expected = load_config(path)
    path.write_bytes(codecs.BOM_UTF8 + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(path) == expected
    path.write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(InputError, match=r"small\.yaml is saved as UTF-16.*: save it as UTF-8"):
        load_config(path)


@pytest.mark.parametrize("value", ["true", '"1"', "1.0", "1.5", "[1, true]", "null", "yes"])
def test_a_label_value_is_a_whole_number(write, value):
    text = MINIMAL.replace("  root: data", f"  root: data\n  labels: {{background: 0, liver: {value}}}")
    with pytest.raises(InputError, match=r"small\.yaml, line 4: dataset\.labels\.liver(\.1)?: .*integer"):
        load_config(write(text))
    with pytest.raises(InputError, match=r"-s dataset\.labels\.liver: dataset\.labels\.liver(\.1)?: .*integer"):
        load_config(write(MINIMAL), ["dataset.labels.background=0", f"dataset.labels.liver={value}"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=true", "training: epochs holds true or false"),
        ("training.patch_size=[16, true, 16]", "training: patch_size holds true or false"),
        ("training.optimizer.learning_rate=true", "training.optimizer: learning_rate holds true or false"),
        ("network.supervised_scales=true", "network: supervised_scales holds true or false"),
        ("seed=false", "seed holds true or false"),
        ("dataset.labels={background: 0, true: 1}", "dataset.labels"),
        ("dataset.channels=[1]", "dataset.channels.0"),
        ("name=" + "a" * 201, "name: String should have at most 200 characters"),
        ("dataset.channels=[true]", "channels holds true or false"),
        ("training.optimizer.rates={encoder: true}", "training.optimizer.rates.encoder: true and false are no numbers"),
    ],
)
def test_true_is_no_number_and_a_number_no_name(write, override, words):
    with pytest.raises(InputError) as told:
        load_config(write(MINIMAL), [override])
    assert words in str(told.value)


def test_switches_stay_switches(write):
    config = load_config(write(MINIMAL), ["preprocessing.crop_foreground=false", "training.start_partially=true"])
    assert (config.preprocessing.crop_foreground, config.training.start_partially) == (False, True)


@pytest.mark.parametrize(
    "key", ["dataset.root", "dataset.groups", "dataset.folds", "dataset.cache", "training.start_from"]
)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a" * 5000, "too long for a path"),
        ("a" * 256, "too long for a path"),
        ("ä" * 128, "too long for a path"),
        ("a/" * 2500, "too long for a path"),
        ('"a\\0b"', "null character"),
    ],
)
def test_a_path_that_cannot_be_is_named_with_its_key(write, key, value, words):
    with pytest.raises(InputError, match=words) as told:
        load_config(write(MINIMAL), [f"{key}={value}"])
    assert f"-s {key}: {key}" in str(told.value)
    assert len(str(told.value)) < 1000


def test_a_long_path_that_can_be_is_taken(write, tmp_path):
    long = tmp_path / ("a" * 255) / "b"
    long.mkdir(parents=True)
    assert load_config(write(MINIMAL), [f"dataset.root={long}"]).dataset.root == str(long)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b"])
def test_a_config_file_that_cannot_be_is_named_in_few_words(path):
    with pytest.raises(InputError, match="there is no config file") as told:
        load_config(path)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("text", ["a: " + "[" * 20_000, "a: " + "1" * 5000])
def test_yaml_that_python_cannot_hold_is_named(write, text):
    with pytest.raises(InputError, match=r"small\.yaml"):
        load_config(write(text))


def test_a_folder_called_like_the_config_is_named(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(InputError, match=r"config\.yaml cannot be read: Is a directory"):
        load_config(tmp_path)
