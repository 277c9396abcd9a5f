import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from dlka_med.cli import main
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.report.report import write_report

from .conftest import HOSTILE, LABELS, SHAPE, UNMAPPED, entropy_of, erring, labelled, make_run, names, write_map
from .test_makers import recorded
from .test_subject import NAMES, compared, folds

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Page(HTMLParser):
    """Elements with attributes and texts; open and close tags have to match."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self.open = [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page_of(path, *arguments, **keywords):
    out = path.parent / "page.html"
    write_report(path, *arguments, out=out, device="cpu", workers=1, **keywords)
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def run(dims, dataset, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", dataset, dims)


@pytest.fixture(scope="session")
def page(run, dataset):
    return page_of(run.path, dataset / "predictions", against=dataset / "others")


def test_the_page_tells_what_evaluate_tells(page, dims, dataset):
    result = evaluate(dataset / "predictions", dataset, label_names=LABELS)
    assert f"{result.mean['dice'].mean:.3f}" in page.text
    low, high = result.mean["dice"].interval
    assert f"{low:.3f} to {high:.3f}" in page.text
    assert "of 11 patients" in page.text
    assert "Against others" in page.text
    assert "12 held out" in page.text
    named, other = ("Volumes", "Areas") if dims == 3 else ("Areas", "Volumes")
    assert page.text.count(named) == 2  # the section and the way to it
    assert f"{named} against the reference" in page.text
    assert other not in page.text


def test_worst_median_and_best_are_shown(page, dataset):
    result = evaluate(dataset / "predictions", dataset, label_names=LABELS)
    means = {}
    for row in result.scores:
        means.setdefault(row.case, []).append(row.values["dice"])
    order = sorted(means, key=lambda case: (np.mean(means[case]), case))
    for word, case in (("Worst", order[0]), ("Second worst", order[1]), ("Median", order[6]), ("Best", order[-1])):
        assert f"{word}: {case}" in page.text


def test_uncertainty_is_told_where_it_was_written(page, dims):
    """Of all cases but one: voxels, of which three labels are told apart, by a loop over the maps."""
    assert f"1 of 12 cases have no map of uncertainty and are not counted here: {UNMAPPED}." in page.text
    voxels, wrong = {}, {}
    for number, name in enumerate(names(12)):
        truth = labelled(number, SHAPE[:dims])
        found = erring(truth, number)
        for level, said, true in zip(entropy_of(found).flat, found.flat, truth.flat, strict=True):
            if name != UNMAPPED:
                voxels[level] = voxels.get(level, 0) + 1
                wrong[level] = wrong.get(level, 0) + (said != true)
    assert set(voxels) == {0, 60, 210}  # 0, 0.37 and 1.31 bit
    assert f"{100 * wrong[0] / sum(wrong.values()):.0f} % of the wrong voxels lie below 0.2 bit" in page.text
    (plot,) = [image["alt"] for image in page.all("img") if "entropy" in image["alt"]]
    assert f"0.3 to 0.4 bit: {100 * wrong[60] / voxels[60]:.2g} %" in plot
    assert f"1.3 to 1.4 bit: {100 * wrong[210] / voxels[210]:.2g} %" in plot
    shown = re.findall("(?:orst|Median|Best): (.*?)\n", page.text)
    switches = [box["value"] for box in page.all("input")].count("uncertainty")
    assert switches == len(shown) - (UNMAPPED in shown)
    assert page.text.count("This case has no map of uncertainty.") == (UNMAPPED in shown)


def test_without_maps_nothing_is_said_of_uncertainty(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    shutil.copytree(volumes / "predictions", tmp_path / "plain", ignore=shutil.ignore_patterns("uncertainty"))
    found = page_of(run.path, tmp_path / "plain")
    assert "ncertain" not in found.text
    assert all(box["value"] != "uncertainty" for box in found.all("input"))


def test_a_map_of_another_shape_is_refused(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    shutil.copytree(volumes / "predictions", tmp_path / "given")
    write_map(tmp_path / "given" / "uncertainty" / "case_2.nii.gz", np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(InputError, match=r"case_2\.nii\.gz has the shape \(3, 4, 5\), but its label map"):
        page_of(run.path, tmp_path / "given")


def test_names_are_text(page):
    """Every name stands there as it is written, and none has become an element."""
    assert HOSTILE in page.text
    assert next(name for name in LABELS if "script" in name) in page.text
    assert not any("onerror" in attributes for _, attributes in page.found)
    scripts = page.all("script")
    assert [script.get("type") for script in scripts[:-1]] == ["application/json"] * (len(scripts) - 1)
    assert "type" not in scripts[-1]


def test_the_page_asks_for_nothing(page):
    for tag, attributes in page.found:
        for key, value in attributes.items():
            if key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert re.match(r"data:|#", value), (tag, key, value[:80])
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_who_cannot_see_it_is_told(page):
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - former <= 1 for former, later in pairwise(levels))
    assert all(len(image["alt"]) > 30 for image in page.all("img"))
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in (attributes for _, attributes in page.found):
        for key in ("aria-labelledby", "for"):
            assert attributes.get(key) is None or attributes[key] in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    for slider in (one for one in page.all("input") if one["type"] == "range"):
        assert slider["id"] in [label.get("for") for label in page.all("label")]


def test_settings_stand_with_what_the_config_says_of_them(page):
    assert "cases that it does not name join" in page.text
    assert "resnet18" in page.text or "dlka_net_3d" in page.text


def test_without_predictions_the_validation_cases_are_predicted(tmp_path, volumes, thresholding):
    run = make_run(tmp_path / "run", volumes, validation=["case_1", "case_2", "case_4"], everybody=NAMES)
    found = page_of(run.path)
    assert "by weights that did not train on them" in found.text
    assert "of 3 patients" in found.text
    assert "0.9" in found.text or "1.000" in found.text
    assert sorted(child.name for child in run.path.iterdir()) == sorted(
        ["config.yaml", "split.json", "metrics.csv", "weights.safetensors"]
    )


def test_cases_that_trained_are_named(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, validation=["case_1", "case_2"], everybody=NAMES)
    found = page_of(run.path, volumes / "predictions")
    assert "4 of 6 cases trained the network: their figures say nothing about new patients" in found.text
    assert "2 held out, 4 trained" in found.text
    scores = {row.case: {} for row in evaluate(volumes / "predictions", volumes, label_names=LABELS).scores}
    for row in evaluate(volumes / "predictions", volumes, label_names=LABELS).scores:
        scores[row.case][row.label] = row.values["dice"]
    unseen = np.mean([[*scores[case].values()] for case in ("case_1", "case_2")])
    assert f"Without them (2 cases): Dice {unseen:.3f}, HD95 (mm) " in found.text
    worst = min(scores, key=lambda case: np.mean([*scores[case].values()]))
    assert (". The network trained on it" in found.text.partition(f"Worst: {worst}")[2][:200]) == (
        worst not in ("case_1", "case_2")
    )


def test_predictions_of_another_run_are_told(tmp_path, volumes, caplog):
    """What the cases were is that to the run that predicted them; of --against only who trained on them."""
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    for folder in ("predictions", "others"):
        shutil.copytree(volumes / folder, tmp_path / folder)
        recorded(tmp_path / folder, ["f00"], NAMES[:2], part="train", name=f"<b>{folder}</b>")
        recorded(tmp_path / folder, ["f00"], NAMES[2:3], part="unknown", name=f"<b>{folder}</b>", made="2")
    found = page_of(run.path, tmp_path / "predictions", against=tmp_path / "others")
    head = found.text.partition("Worst, median and best cases")[0]
    told = "3 of 6 label maps were not made by the weights that run has now: cases.json in predictions names"
    assert f"{told} <b>predictions</b> (3)." in head
    assert "those in the folder predictions: 3 held out, 2 trained, 1 unknown." in head
    assert "2 of 6 cases trained the network" in head
    assert "1 of 6 cases are not known to be new to the network." in head
    assert "2 of its cases trained the run that predicted them: it looks better than it is." in found.text
    said = [record.getMessage() for record in caplog.records if "label maps were not made" in record.getMessage()]
    assert len(said) == 1
    assert told in said[0]
    assert "label maps were not made" not in page_of(run.path, volumes / "predictions").text


def test_only_pages_with_slices_tell_of_sliders(page, dims):
    assert ("The sliders move through the slices" in page.text) == (dims == 3)
    assert ("The boxes show and hide" in page.text) == (dims == 2)
    assert any(box["type"] == "range" for box in page.all("input")) == (dims == 3)


def test_a_run_still_training_has_curves_and_settings(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, trained=False)
    found = page_of(run.path)
    assert "has no weights yet" in found.text
    assert "Curves of 2 epochs" in found.all("img")[0]["alt"]
    assert "Settings and their reasons" in found.text
    assert len(found.all("article")) == 0
    run.metrics_file.unlink()
    assert "No epoch has finished yet." in page_of(run.path).text
    with pytest.raises(InputError, match="nothing to compare"):
        page_of(run.path, against=volumes / "others")


def test_a_run_that_nothing_validates_says_so(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, validation=[], fold="all", everybody=NAMES)
    found = page_of(run.path)
    assert "No case validates this run, since it was trained on all of them (dataset.fold: all)" in found.text


def test_a_dataset_that_moved_is_told(tmp_path, volumes):
    run = make_run(tmp_path / "run", tmp_path / "gone")
    assert "The dataset is not where the run's config says" in page_of(run.path).text
    with pytest.raises(InputError, match=r"Set dataset\.root of its config\.yaml"):
        page_of(run.path, volumes / "predictions")


def test_predictions_of_another_dataset_are_refused(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    shutil.copytree(volumes / "predictions", tmp_path / "renamed")
    (tmp_path / "renamed" / "labels.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "x": 2}}))
    with pytest.raises(InputError, match=r"renamed holds predictions of another dataset.*names .*liver"):
        page_of(run.path, tmp_path / "renamed")
    (tmp_path / "strange").mkdir()
    shutil.copy(volumes / "predictions" / "case_1.nii.gz", tmp_path / "strange" / "liver_7.nii.gz")
    with pytest.raises(InputError, match=r"strange holds predictions of another dataset.*none of its 1 cases"):
        page_of(run.path, tmp_path / "strange")
    with pytest.raises(InputError, match="strange holds predictions of another dataset"):
        page_of(run.path, volumes / "predictions", against=tmp_path / "strange")


def test_folds_that_are_not_finished(tmp_path, volumes, thresholding):
    found = page_of(folds(tmp_path / "folds", volumes))
    assert "1 of 3 trainings have no weights yet" in found.text
    assert "Cross-validation" in found.text
    assert re.findall(r"fold \d(?=\s*Network)", found.text) == ["fold 0", "fold 1", "fold 2"]
    assert "Cases that validated in fold 0 (2)" in found.text


def test_folds_that_were_evaluated_are_found(tmp_path, volumes):
    folder = folds(tmp_path / "folds", volumes, trained=(True, True, True))
    shutil.copytree(volumes / "predictions", folder / "predictions")
    (folder / "crossvalidation.json").touch()
    assert "Every case was predicted by the fold that did not see it." in page_of(folder).text


@pytest.mark.slow
def test_a_comparison(tmp_path, volumes, thresholding):
    folder = compared(tmp_path / "compared", volumes)
    assert "The comparison is not finished" in page_of(folder).text
    for network in ("unet", "dynunet"):
        for seed in (0, 1):
            shutil.copytree(volumes / "predictions", folder / "predictions" / network / f"seed_{seed}")
    summary = evaluate(volumes / "predictions", volumes, label_names=LABELS).summary()
    network = {"mean": summary["mean"], "labels": {}, "seeds": {"0": 0.5, "1": None}, "spread_of_seeds": None}
    network |= {"parameters": 4.2e6, "multiply_adds": 7e9, "seconds_per_step": 0.3, "seconds_per_case": None}
    claims = [{"other": "dynunet", "claims": ["Dice: neither may be called <b>better</b>"]}]
    content = {"networks": {"unet": network, "dynunet": network}, "comparisons": claims, "left_out": {}}
    content |= {key: summary[key] for key in ("cases", "patients", "unit", "tolerance_mm")}
    (folder / "compare.json").write_text(json.dumps(content))
    found = page_of(folder)
    assert "neither may be called <b>better</b>" in found.text
    assert "4.2 M" in found.text
    assert "those of unet, seed 0" in found.text
    assert "Against dynunet" in found.text
    (folder / "compare.json").write_text("{}")
    with pytest.raises(InputError, match=r"compare\.json is damaged"):
        page_of(folder)


@pytest.mark.slow
def test_a_calibrated_run_shows_its_reliability(tmp_path, volumes):
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    bins = [{"from": 0, "to": 1, "voxels": 10.0, "confidence": 0.8, "accuracy": 0.7}]
    near = {"near": {"nll": 0.1, "brier": 0.2, "ece": 0.0123, "mce": 0.1}}
    content = {"temperature": 1.5, "cases": 6, "before": near, "after": near}
    run.calibration_file.write_text(json.dumps(content | {"reliability": {"before": bins, "after": bins}}))
    found = page_of(run.path, volumes / "predictions")
    assert "temperature 1.500, from 6 held-out cases; near" in found.text
    assert any("0.0123 before" in image["alt"] for image in found.all("img"))
    shutil.copytree(volumes / "predictions", tmp_path / "foreign")
    recorded(tmp_path / "foreign", ["f00"], name="other")
    for digest, place, told in (
        (digest_of_weights(run), "foreign", ", not of the weights that made the predictions; near"),
        ("f00", "foreign", ", of other weights than there are now, not of the weights that made the predictions; near"),
    ):
        known = content | {"weights": {"run": digest}, "reliability": {"before": bins, "after": bins}}
        run.calibration_file.write_text(json.dumps(known))
        assert f"held-out cases{told}" in page_of(run.path, tmp_path / place).text
    for text in ("{}", "no json", json.dumps(content), json.dumps(content | {"weights": 3})):
        run.calibration_file.write_text(text)
        assert "Reliability" not in page_of(run.path, volumes / "predictions").text


def test_the_verb_writes_into_the_run_and_refuses_what_is_there(tmp_path, volumes, capsys):
    run = make_run(tmp_path / "run", volumes, everybody=NAMES)
    words = ["report", str(run.path), str(volumes / "predictions"), "--workers", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"
    before = (run.path / "report.html").read_bytes()
    assert main(words) == 2
    assert "report.html exists already: name another file with -o" in capsys.readouterr().err
    assert (run.path / "report.html").read_bytes() == before
