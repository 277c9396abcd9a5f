"""A run that goes on: exactly as if nothing had happened, or not at all."""

import shutil
from pathlib import Path

import nibabel as nib
import pytest
import torch
from safetensors.torch import load_file

from dlka_med.config.loading import load_config
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import read_dataset
from dlka_med.errors import InputError
from dlka_med.provenance import Provenance
from dlka_med.run_folder import PARTS, RunFolder
from dlka_med.training.callbacks import Safekeeping
from dlka_med.training.resume import refuse_different, resumed_config
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train

from .runs import changed, rows_of


def assert_same(one, other):
    """Two runs ended alike: weights, state and records."""
    for name, tensor in load_file(one.weights_file).items():
        assert torch.equal(tensor, load_file(other.weights_file)[name]), name
    last = [torch.load(run.checkpoint_file, weights_only=True) for run in (one, other)]
    for name, tensor in last[0]["state_dict"].items():
        assert torch.equal(tensor, last[1]["state_dict"][name]), name
    assert one.weights_metadata == other.weights_metadata
    for row, same in zip(rows_of(one), rows_of(other), strict=True):
        for key in ("epoch", "step", "loss", "dice", "best_dice", "learning_rate"):
            assert row[key] == same[key], key


def test_a_resumed_run_ends_exactly_as_an_unbroken_one(any_config, tmp_path, stop_after):
    whole = train(any_config, tmp_path / "whole")
    with stop_after(epoch=1):
        train(any_config, tmp_path / "broken")
    with stop_after(epoch=2):
        train(changed(any_config, workers=1), tmp_path / "broken", resume=True)
    assert_same(whole, train(any_config, tmp_path / "broken", resume=True))


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_patches_of_the_size_that_it_had_come_to(config, tmp_path, stop_after, monkeypatch):
    growing, sizes = changed(config, growing=0.9, epochs=4), []
    seen = SegmentationTask.training_step

    def look(self, batch, index):
        sizes.append(tuple(batch["image"].shape[2:]))
        return seen(self, batch, index)

    monkeypatch.setattr(SegmentationTask, "training_step", look)
    whole = train(growing, tmp_path / "whole")
    unbroken = sizes.copy()
    assert unbroken == 2 * [(8, 8, 8)] + 4 * [(8, 12, 8)] + 2 * [(12, 16, 12)]
    sizes.clear()
    with stop_after(epoch=1):
        train(growing, tmp_path / "broken")
    assert_same(whole, train(growing, tmp_path / "broken", resume=True))
    assert sizes == unbroken


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_failing_validation_loses_nothing(unbroken, tmp_path, monkeypatch, epoch):
    """The epoch is not trained again, whether it was the last one or not, and its validation is made up for."""
    config, whole = unbroken
    validated = []
    with monkeypatch.context() as patch:

        def fail_in_epoch(*masks):
            if len(validated) // 2 == epoch - 1:
                raise MemoryError("a large case")
            validated.append(masks)
            return dice(*masks)

        dice = train.__globals__["dice"]
        patch.setattr("dlka_med.training.train.dice", fail_in_epoch)
        for resume in (False, True):
            with pytest.raises(MemoryError, match="a large case"):
                train(config, tmp_path / "broken", resume=resume)
    steps = []
    monkeypatch.setattr(
        "dlka_med.training.task.SegmentationTask.on_train_batch_end",
        lambda self, *_: (steps.append(1), self.averaged.update_parameters(self.network)),
    )
    assert_same(whole, train(config, tmp_path / "broken", resume=True))
    assert len(steps) == 2 * (2 - epoch)
    train(config, tmp_path / "broken", resume=True)
    assert len(steps) == 2 * (2 - epoch), "a finished run has nothing to do"


def test_a_run_killed_after_it_made_up_for_a_validation_loses_nothing(unbroken, tmp_path, monkeypatch):
    """Workers draw before Lightning tells the epoch, so that the data's own count of them matters."""
    (config, whole), broken = unbroken, tmp_path / "broken"
    helped = changed(config, workers=1)
    for place in ("train.dice", "task.SegmentationTask.training_step"):
        with monkeypatch.context() as patch:
            patch.setattr(f"dlka_med.training.{place}", lambda *_: [][0])
            with pytest.raises(IndexError):
                train(helped, broken, resume=broken.is_dir())
    assert_same(whole, train(helped, broken, resume=True))


def test_an_epoch_killed_before_its_records_is_recorded(unbroken, tmp_path, monkeypatch):
    config, whole = unbroken
    with monkeypatch.context() as patch:
        patch.setattr("dlka_med.training.callbacks._write_csv", lambda *_: [][0])
        with pytest.raises(IndexError):
            train(config, tmp_path / "broken")
    assert_same(whole, train(config, tmp_path / "broken", resume=True))


def test_resume_refuses_another_config_and_names_it(config, finished):
    config = changed(config, epochs=1, steps_per_epoch=1)
    other = config.model_copy(update={"seed": 7, "network": config.network.model_copy(update={"depths": (2, 1)})})
    with pytest.raises(InputError, match=r"network\.depths: \(2, 1\) asked, \(1, 1\) in the run; seed: 7 asked"):
        train(other, finished.path, resume=True)
    with pytest.raises(InputError, match=r"training\.ema: None asked, 0\.9 in the run"):
        train(changed(config, ema=None), finished.path, resume=True)


@pytest.mark.parametrize("asked", [None, {"ball": {"color": [1, 2, 3]}}])
def test_how_labels_are_shown_may_change(config, tmp_path, asked):
    """A run keeps what its dataset says of it, which the config that it was started from leaves open."""
    base = config.model_dump()
    base["dataset"] |= {"channels": ["MRI"], "labels": {"background": 0, "ball": 1}}
    kept, now = (
        RunConfig.model_validate(base | {"dataset": base["dataset"] | {"segments": segments}})
        for segments in ({"ball": {"color": [255, 0, 0]}}, asked)
    )
    runs = [RunFolder.create(tmp_path / str(n), one, dict.fromkeys(PARTS, ())) for n, one in enumerate((kept, now))]
    assert resumed_config(now, runs[0]).dataset.segments == now.dataset.segments
    refuse_different(dict(enumerate(runs)), same_length=True)


def test_resume_refuses_what_is_no_checkpoint_of_this_run(config, finished, tmp_path):
    config = changed(config, steps_per_epoch=1)
    whole = finished.checkpoint_file.read_bytes()
    wider = changed(changed(config, "network", channels=(4, 12)), epochs=1)
    other = train(wider, tmp_path / "other")
    weights = finished.weights_file.read_bytes()
    for content, words in (
        (whole[:1000], r"checkpoint\.ckpt: it is damaged"),
        (other.checkpoint_file.read_bytes(), r"another network .* the first: network\.downsamplers\.1"),
        (None, r"checkpoint\.ckpt is missing"),
    ):
        finished.checkpoint_file.unlink()
        if content is not None:
            finished.checkpoint_file.write_bytes(content)
        with pytest.raises(InputError, match=words):
            train(config, finished.path, resume=True, extend=True)
    assert finished.weights_file.read_bytes() == weights


def test_a_run_resumes_from_another_folder(config, tmp_path, monkeypatch):
    root = Path(config.dataset.root)
    monkeypatch.chdir(root.parent)
    near = changed(config, "dataset", root=root.name)
    run = train(changed(near, epochs=1, steps_per_epoch=1), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    saved = load_config(run.path, ["training.epochs=2"])
    assert len(rows_of(train(saved, run.path, resume=True, extend=True))) == 2


def test_resume_of_no_run_is_refused(config, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        train(config, tmp_path / "nothing", resume=True)


def test_a_run_without_an_epoch_may_start_again(config, tmp_path, monkeypatch):
    config = changed(config, epochs=1, steps_per_epoch=1)
    with monkeypatch.context() as patch:
        patch.setattr(Safekeeping, "on_train_epoch_end", lambda *_: [][0])
        with pytest.raises(IndexError):
            train(config, tmp_path / "run")
    (tmp_path / "run" / ".writing-abcdefgh-checkpoint.ckpt").write_text("of a killed process")
    assert train(config, tmp_path / "run").started
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_an_extended_run_says_where_its_learning_rate_goes_on(finished, caplog):
    """Cosine without warmup: at half of the longer course it is at half of its height."""
    run, length = finished, len(rows_of(finished))
    longer = changed(run.config, epochs=2 * length)
    with pytest.raises(InputError, match=r"training.epochs: .*; dlka train RUN --extend N goes on for longer"):
        train(longer, run.path, resume=True)
    caplog.set_level("INFO", "dlka_med")
    train(longer, run.path, resume=True, extend=True)
    rows = rows_of(run)
    assert len(rows) == 2 * length
    full = run.config.training.optimizer.learning_rate
    assert f"which stood at 0.00e+00, goes on at {full / 2:.2e} and falls to zero" in caplog.text
    first = float(rows[length]["learning_rate"])
    assert 0.2 * full < first <= 0.51 * full
    assert type(run).open(run.path).config.training.epochs == 2 * length
    caplog.clear()
    train(longer, run.path, resume=True, extend=True)
    assert "is finished: dlka train" in caplog.text
    assert "goes on at" not in caplog.text


def test_what_fails_before_it_trains_extends_nothing(finished, monkeypatch):
    def fail(*arguments):
        raise InputError("the disk is full")

    epochs = finished.config.training.epochs
    with monkeypatch.context() as patch:
        patch.setattr("dlka_med.training.data.check_labels", fail)
        with pytest.raises(InputError, match="the disk is full"):
            train(changed(finished.config, epochs=epochs + 1), finished.path, resume=True, extend=True)
    assert RunFolder.open(finished.path).config.training.epochs == epochs


def test_images_that_a_resumed_run_learns_from_are_noted(finished, balls, tmp_path):
    """The dataset lies elsewhere now, and its images are others under the same names."""
    root = shutil.copytree(balls, tmp_path / "others")
    cases = read_dataset(root).cases
    for case in cases:
        image = nib.load(case.images[0])
        nib.save(nib.Nifti1Image(image.get_fdata(dtype="float32") + 1, image.affine), case.images[0])
    longer = changed(changed(finished.config, epochs=2), "dataset", root=str(root))
    before = Provenance.of_run(finished)
    train(longer, finished.path, resume=True, extend=True)
    after, trained = Provenance.of_run(finished), [case for case in cases if case.id in finished.split["train"]]
    assert before.cases < after.cases
    assert after.among(trained)[0] == [case.id for case in trained]


def test_imported_weights_are_not_trained_over(finished, tmp_path):
    run = RunFolder.create(tmp_path / "imported", finished.config, {part: () for part in PARTS})
    run.save_weights(finished.load_weights())
    with pytest.raises(InputError, match=r"has weights, but no training to go on with .*start_from"):
        train(run.config, run.path, resume=True)
