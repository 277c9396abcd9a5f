"""Every verb looks at its paths before anything slow is imported, and says which one was meant."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlka_med.cli import build_parser
from dlka_med.errors import InputError

HEAVY = ("torch", "monai", "numpy", "nibabel", "scipy", "matplotlib", "pytorch_lightning", "timm")
RIGHT = {
    "demo": ["--out", "new"],
    "check": ["data", "--fix", "new", "--json", "new.json", "--config", "c.yaml", "--groups", "c.yaml"],
    "plan": ["data", "--out", "new.yaml"],
    "train": ["c.yaml", "--out", "new"],
    "calibrate": ["validated"],
    "postprocess": ["validated"],
    "predict": ["run", "images", "--out", "new", "--crop", "labels", "--with", "validated"],
    "evaluate": ["predictions", "labels", "--out", "new", "--against", "images", "--groups", "c.yaml"],
    "compare": ["data", "--networks", "unet,dynunet", "--epochs", "1", "--out", "new"],
    "info": ["c.yaml"],
    "inspect": ["run", "images/7.nii.gz", "--out", "new", "--label", "scans/labels/7.nii.gz"],
    "report": ["validated", "predictions", "--out", "new.html", "--against", "images"],
    "figure": ["validated", "7", "--out", "new.png"],
    "import-weights": ["original.model", "--config", "c.yaml", "--out", "new"],
    "schema": [],
}
# Of arguments that exclude each other, those that the line above has no room for.
OTHERWISE_RIGHT = {("compare", "ablate"): ["data", "--ablate", "c.yaml", "--out", "new"]}
FILE = "original.model"  # where a folder belongs
WRONG = [  # verb, argument, what is typed for it, what the message says
    ("demo", "out", f"{FILE}/new", FILE),
    ("demo", "out", "data", "data exists already"),
    ("check", "dataset", "daat", "mean data?"),
    ("check", "fix", f"{FILE}/new", FILE),
    ("check", "fix", "data", "data exists already"),
    ("check", "json", "data", "name a file"),
    ("check", "config", "c.yml", "mean c.yaml?"),
    ("check", "groups", "c.yml", "mean c.yaml?"),
    ("plan", "dataset", "dtaa", "mean data?"),
    ("plan", "out", f"{FILE}/new.yaml", FILE),
    ("plan", "out", "c.yaml", "c.yaml exists already"),
    ("plan", "out", "new", "a name that ends with .yaml"),
    ("train", "config", "c.yml", "mean c.yaml?"),
    ("train", "out", f"{FILE}/new", FILE),
    ("train", "out", "run", "--resume"),
    ("calibrate", "run", "valdated", "mean validated?"),
    ("calibrate", "run", "data", "config.yaml"),
    ("calibrate", "run", "untrained", "weights.safetensors is missing"),
    ("calibrate", "run", "run", "run/split.json has no validation case"),
    ("postprocess", "run", "valdated", "mean validated?"),
    ("postprocess", "run", "data", "config.yaml"),
    ("postprocess", "run", "untrained", "weights.safetensors is missing"),
    ("postprocess", "run", "run", "run/split.json has no validation case"),
    ("predict", "run", "rnu", "mean run?"),
    ("predict", "run", "data", "config.yaml"),
    ("predict", "run", "untrained", "weights.safetensors is missing"),
    ("predict", "others", "valdated", "mean validated?"),
    ("predict", "others", "run", "the run run is named twice"),
    ("predict", "images", "imgaes", "mean images?"),
    ("predict", "images", "imgaes/7.nii.gz", "mean images/7.nii.gz?"),
    ("predict", "out", f"{FILE}/new", FILE),
    ("predict", "crop", "labesl", "mean labels?"),
    ("evaluate", "predictions", "prediction", "mean predictions?"),
    ("evaluate", "labels", "labelsTr", "mean labels?"),
    ("evaluate", "against", "imgaes", "mean images?"),
    ("evaluate", "groups", "c.yml", "mean c.yaml?"),
    ("evaluate", "out", f"{FILE}/new", FILE),
    ("evaluate", "out", "data", "data exists already"),
    ("compare", "dataset", "dtaa", "mean data?"),
    ("compare", "ablate", "c.yml", "mean c.yaml?"),
    ("compare", "out", f"{FILE}/new", FILE),
    ("compare", "out", "data", "data exists already"),
    ("info", "what", "c.yml", "mean c.yaml?"),
    ("info", "what", "dlka_net3d", "mean dlka_net_3d?"),
    ("info", "what", "data", "config.yaml and split.json missing"),
    ("inspect", "run", "rnu", "mean run?"),
    ("inspect", "run", "untrained", "weights.safetensors is missing"),
    ("inspect", "image", "imgaes/7.nii.gz", "mean images/7.nii.gz?"),
    ("inspect", "label", "scans/lables/7.nii.gz", "mean scans/labels/7.nii.gz?"),
    ("inspect", "out", f"{FILE}/new", FILE),
    ("inspect", "out", "data", "data exists already"),
    ("report", "run", "valdated", "mean validated?"),
    ("report", "run", "data", "config.yaml"),
    ("report", "predictions", "prediction", "mean predictions?"),
    ("report", "against", "imgaes", "mean images?"),
    ("report", "out", f"{FILE}/new.html", FILE),
    ("report", "out", "new", "is to end with .html"),
    ("figure", "run", "valdated", "mean validated?"),
    ("figure", "run", "untrained", "weights.safetensors is missing"),
    ("figure", "out", f"{FILE}/new.png", FILE),
    ("figure", "out", "new.gif", "is to end with .png or .svg or .pdf"),
    ("import-weights", "file", "orignal.model", "mean original.model?"),
    ("import-weights", "config", "c.yml", "mean c.yaml?"),
    ("import-weights", "out", f"{FILE}/new", FILE),
    ("import-weights", "out", "data", "data exists already"),
]
WRONG_VALUES = [
    ("check", ["--folds", "1"], "expected an integer, 2 or more, got '1'"),
    ("plan", ["--device", "gpu"], "there is no device called 'gpu'"),
    ("plan", ["--network", "dlka_net3d"], "did you mean dlka_net_3d?"),
    ("plan", ["--minutes", "0"], "expected a number, 0.01 or more, got '0'"),
    ("plan", ["--minutes", "5", "--epochs", "3"], "not allowed with argument"),
    ("train", ["-s", "dataset.root=dta"], "did you mean data?"),
    ("train", ["-s", "dataset.groups=gruops.csv"], "gruops.csv does not exist"),
    ("train", ["-s", "training.start_from=rnu"], "did you mean run?"),
    ("train", ["-s", "trainin.minutes=2"], "did you mean 'training'?"),
    ("train", ["--resume"], "there is no run folder new"),
    ("train", ["-s", "dataset.folds=flods.json"], "flods.json does not exist: give a number of folds or a JSON file"),
    ("train", ["--shard", "0/2"], "--shard shares out folds: add --folds all"),
    ("train", ["--folds", "all", "--resume"], "new does not exist: give the folder of the folds"),
    ("train", ["--folds", "all", "--out", "run"], "run holds a run already, no folds"),
    ("train", ["--folds", "all", "--out", "data"], "data exists already and is not empty"),
    ("calibrate", ["--device", "gpu"], "there is no device called 'gpu'"),
    ("postprocess", ["--device", "gpu"], "there is no device called 'gpu'"),
    ("postprocess", ["--cases", "0"], "expected an integer, 1 or more, got '0'"),
    ("predict", ["--no-postproces"], "did you mean --no-postprocess?"),
    ("predict", ["--device", "gpu"], "there is no device called 'gpu'"),
    ("predict", ["--fast", "--mirror"], "--fast chooses overlap and mirroring itself"),
    ("predict", ["--shard", "2/2"], "expected I/N"),
    ("predict", ["--probabilities", "float32"], "invalid choice"),
    ("predict", ["--threshold", "0.4"], "expected REGION=P, such as core=0.4, got '0.4'"),
    ("predict", ["--threshold", "core=0.3", "--threshold", "core=0.6"], "twice for 'core', 0.3 and 0.6: choose one"),
    ("predict", ["--mirror-axes", "0,1", "--mirror-axes", "2"], "it is given twice, 0,1 and 2: choose one"),
    ("predict", ["--probabilities", "--probabilities", "float16"], "it is given twice, uint8 and float16"),
    ("predict", ["--memory", "4", "--memory", "5"], "argument --memory: it is given twice, 4.0 and 5.0: choose one"),
    ("evaluate", ["--tolerance", "1", "--tolerance", "2"], "it is given twice, 1 and 2: choose one"),
    ("evaluate", ["--tolerance", "a=1", "--tolerance", "a=2"], "it is given twice for 'a', 1 and 2: choose one"),
    ("compare", ["--clock", "wall", "--clock", "processor"], "it is given twice, wall and processor: choose one"),
    ("compare", ["--networks", "unet,dynunet", "--networks", "dynunet,unet"], "twice, unet,dynunet and dynunet,unet"),
    ("predict", ["--threshold", "core=1"], "expected a number, from 0 to below 1, got '1'"),
    ("predict", ["--overlap", "1"], "expected a number, from 0 to below 1, got '1'"),
    ("evaluate", ["--tolerance", "-1"], "expected a number, 0 or more, got '-1'"),
    ("evaluate", ["--tolerance", "liver=x"], "expected a number, 0 or more, got 'x'"),
    ("evaluate", ["--convention", "brat"], "did you mean brats?"),
    ("evaluate", ["--workers", "0"], "expected an integer, 1 or more, got '0'"),
    ("compare", ["--networks", "unet,dynunett"], "there is no network 'dynunett'; did you mean dynunet"),
    ("compare", ["--networks", "unet"], "expected two different networks or more, got 'unet'"),
    ("compare", ["--networks", "unet,unet"], "expected two different networks or more"),
    ("compare", ["--networks", "unet, unet"], "expected two different networks or more"),
    ("compare", ["--minutes", "3"], "not allowed with argument"),
    ("compare", ["--seeds", "0"], "expected an integer, 1 or more, got '0'"),
    ("compare", ["--shard", "2/2"], "expected I/N"),
    ("compare", ["--out", "compared"], "epochs is 7 there and 1 here"),
    ("compare", ["--ablate", "c.yaml"], "argument --ablate: not allowed with argument --networks"),
    ("compare", ["--clock", "processor"], "--clock processor is of --minutes"),
    ("compare", ["--by-stage"], "--by-stage belongs to --ablate"),
    ("compare", ["-s", "training.minutes=2"], "-s belongs to --ablate"),
    ("info", ["--patch", "64"], "expected two or three sizes with commas between, such as 64,64,64, got '64'"),
    ("info", ["--classes", "1"], "expected an integer, 2 or more, got '1'"),
    ("inspect", ["--windows", "0"], "expected an integer, 1 or more, got '0'"),
    ("import-weights", ["-s", "trainin.minutes=2"], "did you mean 'training'?"),
    ("schema", ["--otu"], "unknown argument --otu"),
]


SCRIPT = f"""
import contextlib, io, json, sys
from dlka_med.cli import main
for line in sys.stdin:
    with contextlib.redirect_stderr(io.StringIO()) as message:
        try:
            code = main(json.loads(line))
        except SystemExit as end:
            code = end.code
    answer = code, message.getvalue(), [name for name in {HEAVY} if name in sys.modules]
    sys.stdout.write(json.dumps(answer) + "\\n")
"""


@pytest.fixture(scope="module")
def answer(folder):
    """(words) -> exit code, stderr and heavy modules imported of a command, all in one new Python."""
    commands = [typed(verb, argument, value) for verb, argument, value, _ in WRONG]
    commands += [changed(verb, words) for verb, words, _ in WRONG_VALUES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(map(json.dumps, commands)),
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return lambda words: answers[commands.index(words)]


def path_arguments() -> set[tuple[str, str]]:
    _, verbs = build_parser()
    return {(verb, action.dest) for verb, parser in verbs.items() for action in parser._actions if action.type is Path}


def typed(verb: str, argument: str, value: str) -> list[str]:
    """The right command of a verb but for one argument."""
    _, verbs = build_parser()
    action = next(action for action in verbs[verb]._actions if action.dest == argument)
    words = list(OTHERWISE_RIGHT.get((verb, argument), RIGHT[verb]))
    positionals = [action.dest for action in verbs[verb]._actions if not action.option_strings]
    place = words.index(action.option_strings[0]) + 1 if action.option_strings else positionals.index(argument)
    words[place] = value
    return [verb, *words]


def changed(verb: str, words: list[str]) -> list[str]:
    """The right command of a verb with these words, in place of the options of it that they give anew."""
    right = list(RIGHT[verb])
    for option in {word for word in words if word in right and word.startswith("-")}:
        place = right.index(option)
        del right[place : place + 2]
    return [verb, *right, *words]


def test_every_path_of_every_verb_is_tried():
    assert {(verb, argument) for verb, argument, *_ in WRONG} == path_arguments()
    _, verbs = build_parser()
    assert set(RIGHT) == set(verbs)


@pytest.mark.parametrize(("verb", "argument", "value", "told"), WRONG)
def test_a_mistyped_path_is_told_before_anything_heavy_is_imported(answer, verb, argument, value, told):
    code, message, heavy = answer(typed(verb, argument, value))
    assert (code, heavy) == (2, [])
    assert message.startswith("error: ")
    assert value in message
    assert told in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("verb", "words", "told"), WRONG_VALUES)
def test_a_wrong_value_is_told_before_anything_heavy_is_imported(answer, verb, words, told):
    code, message, heavy = answer(changed(verb, words))
    assert (code, heavy) == (2, [])
    assert told in message


def test_looking_makes_nothing(answer, folder):
    assert not (folder / "new").exists()
    assert not list(folder.rglob(".writing-*"))


@pytest.mark.parametrize("verb", RIGHT)
def test_the_right_paths_pass(places, verb, monkeypatch):
    """Nothing is refused that the library would take: the call behind the verb is reached."""
    parser, _ = build_parser()
    reached = []
    calls = {
        "demo": ("dlka_med.demo", "run_demo"),
        "check": ("dlka_med.checking.check", "check_dataset"),
        "plan": ("dlka_med.planning.plan", "plan"),
        "train": ("dlka_med.training.train", "train"),
        "calibrate": ("dlka_med.calibrating.calibrate", "calibrate"),
        "postprocess": ("dlka_med.postprocessing.learn", "learn_postprocessing"),
        "predict": ("dlka_med.inference.predict", "predict_images"),
        "evaluate": ("dlka_med.evaluation.evaluate", "evaluate"),
        "compare": ("dlka_med.comparing.compare", "compare"),
        "info": ("dlka_med.inspection.info", "describe"),
        "inspect": ("dlka_med.inspection.inspect_image", "inspect_image"),
        "report": ("dlka_med.report.report", "write_report"),
        "figure": ("dlka_med.report.panels", "draw_case"),
        "import-weights": ("dlka_med.import_weights", "import_weights"),
        "schema": ("dlka_med.config.loading", "json_schema"),
    }
    module, function = calls[verb]

    def call(*args, **kwargs):
        reached.append(function)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{module}.{function}", call)
    options: argparse.Namespace = parser.parse_args([verb, *RIGHT[verb]])
    with pytest.raises(KeyboardInterrupt):
        options.function(options)
    assert reached == [function]


def ablated(places, monkeypatch, *words):
    """The config that `dlka compare --ablate c.yaml` hands on, and its other arguments."""
    reached = []

    def ablate(config, out, **more):
        reached.append((config, more))
        raise KeyboardInterrupt

    monkeypatch.setattr("dlka_med.comparing.compare.ablate", ablate)
    parser, _ = build_parser()
    options = parser.parse_args(["compare", "--ablate", "c.yaml", "--out", "new", *words])
    with pytest.raises(KeyboardInterrupt):
        options.function(options)
    return reached[0]


def test_options_replace_what_the_config_of_an_ablation_says(places, monkeypatch):
    config, more = ablated(places, monkeypatch)
    assert (config.dataset.root, config.training.epochs, config.training.minutes) == ("data", 1000, None)
    assert (more["by_stage"], more["seeds"], more["folds"]) == (False, 3, (0,))
    (places / "da: ta").mkdir()
    words = ["--minutes", "2", "--by-stage", "--folds", "all", "-s", "training.batch_size=3"]
    config, more = ablated(places, monkeypatch, *words, "da: ta")
    assert (config.dataset.root, config.training.epochs, config.training.minutes) == ("da: ta", None, 2)
    assert (config.training.batch_size, more["by_stage"], more["folds"]) == (3, True, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ablate", "c.yaml", "--memory", "4"], "--memory belongs to --networks"),
        (["--ablate", "c.yaml", "-s", "network.deformation=none"], "there is nothing to ablate"),
        (["--networks", "unet,dynunet", "--epochs", "1"], "--networks are planned for a dataset: give its folder"),
        (["data", "--networks", "unet,dynunet"], "needs one limit, --minutes or --epochs"),
    ],
)
def test_options_of_a_comparison_that_do_not_fit(places, words, told):
    parser, _ = build_parser()
    options = parser.parse_args(["compare", "--out", "new", *words])
    with pytest.raises(InputError, match=told):
        options.function(options)


@pytest.mark.parametrize("option", [["--resume"], ["--extend", "2"]])
def test_going_on_with_what_is_no_run(places, option):
    (places / "several").mkdir(exist_ok=True)
    (places / "several" / "folds.json").write_text("[]")
    for name, told in (("several", "the command with --folds .* several/fold_0"), ("rnu", "give the run folder.*run?")):
        parser, _ = build_parser()
        options = parser.parse_args(["train", name, *option])
        with pytest.raises(InputError, match=told):
            options.function(options)
