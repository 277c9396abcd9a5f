"""The command line: fast help, one clear line for each mistake, the right call for each verb."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dlka_med import cli, metrics
from dlka_med.cli import evaluate as evaluate_verb
from dlka_med.errors import InputError
from dlka_med.evaluation.measures import Protocol


@pytest.fixture
def library(monkeypatch, places):
    """Stands in for the modules behind the verbs, in a folder that holds what they are given; returns the calls."""
    calls = []

    def stand_in(name, /, **functions):
        module = ModuleType(name)
        for function, answer in functions.items():

            def call(*args, _name=function, _answer=answer, **kwargs):
                calls.append((_name, args, kwargs))
                if isinstance(_answer, BaseException):
                    raise _answer
                return _answer

            setattr(module, function, call)
        monkeypatch.setitem(sys.modules, name, module)

    stand_in("dlka_med.planning.plan", plan=None)
    stand_in("dlka_med.training.train", train=None)
    stand_in("dlka_med.training.folds", train_folds={"all": {}})
    stand_in("dlka_med.training.crossvalidation", format_crossvalidation="mean Dice 0.5\n")
    stand_in("dlka_med.inference.predict", predict_images=None)
    stand_in("dlka_med.evaluation.evaluate", evaluate={"mean": {}})
    stand_in("dlka_med.evaluation.tables", format_summary="dice 0.5")
    return SimpleNamespace(calls=calls, stand_in=stand_in)


def stop(arguments, capsys):
    """Exit code and stderr of a command line that the parser refuses."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import sys\nfrom dlka_med.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'monai', 'numpy', 'pydantic', 'yaml', 'nibabel'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dlka_med", "nope"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("dlka: argument VERB")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["trian", "c.yaml"], "did you mean train?"),
        (["train", "c.yaml", "--resmue"], "did you mean --resume?"),
        (["evaluate", "a", "b", "--uot", "c"], "did you mean --out?"),
        (["evaluate", "a", "b", "-o", "c", "--tolerence=2"], "did you mean --tolerance?"),
        (["predict", "a", "b", "-o", "c", "--split", "tst"], "did you mean test?"),
        (["predict", "a", "b", "-o", "c", "--overlap", "half"], "expected a number, from 0 to below 1"),
        (["predict", "a", "b", "-o", "c", "--memory", "-1"], "expected a number, 0 or more"),
        (["demo", "-o", "a", "--seed", "-1"], "--seed: expected an integer, 0 or more, got '-1'"),
        (["predict", "a"], "IMAGES"),
        ([], "VERB"),
    ],
)
def test_a_mistyped_command_is_explained_in_one_line(arguments, near, capsys):
    code, message = stop(arguments, capsys)
    assert code == 2
    assert near in message
    assert message.count("\n") == 1


def test_train_calls(library):
    assert cli.main(["train", "c.yaml", "-s", "seed=1", "-s", "training.minutes=2"]) == 0
    [(name, (config, out), keywords)] = library.calls
    assert (name, out, keywords) == ("train", Path("runs/brain"), {"resume": False, "extend": False, "reasons": {}})
    assert (config.name, config.seed, config.training.minutes) == ("brain", 1, 2)
    library.calls.clear()
    assert cli.main(["train", "run", "--resume"]) == 0
    [(name, (config, out), keywords)] = library.calls
    assert (name, config.name, out, keywords) == (
        "train",
        "trained",
        Path("run"),
        {"resume": True, "extend": False, "reasons": {}},
    )


@pytest.mark.parametrize(
    ("limits", "more", "longer"),
    [
        ({"minutes": 20.0, "epochs": None}, "10", (30.0, None)),
        ({"minutes": None, "epochs": 8}, "2", (None, 10)),
        ({"minutes": 20.0, "epochs": 8}, "5", (25.0, 10)),
    ],
)
def test_extend_adds_to_what_ends_the_run(library, limits, more, longer):
    settings = [f"training.{key}={'null' if value is None else value}" for key, value in limits.items()]
    overrides = [word for setting in settings for word in ("-s", setting)]
    assert cli.main(["train", "run", "--extend", more, *overrides]) == 0
    [(_, (config, out), keywords)] = library.calls
    assert (out, keywords) == (Path("run"), {"resume": True, "extend": True, "reasons": {}})
    assert (config.training.minutes, config.training.epochs) == longer


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["c.yaml", "--extend", "2"], "--extend goes on with one run: name its folder"),
        (["run", "--extend", "2", "--folds", "all"], "leave out --folds"),
        (["run", "--extend", "0.5", "-s", "training.minutes=null", "-s", "training.epochs=3"], "a whole number"),
        (["run", "--extend", "2", "--resume"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_extended_is_refused(library, capsys, words, told):
    try:
        code = cli.main(["train", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert library.calls == []


@pytest.mark.parametrize(
    ("words", "chosen", "shard"),
    [
        (["--folds", "all"], None, (0, 1)),
        (["--folds", "0,2", "--shard", "1/2"], (0, 2), (1, 2)),
        (["--folds", "1", "--resume", "-o", "images"], (1,), (0, 1)),
    ],
)
def test_train_of_folds_calls_and_prints_the_table(library, capsys, monkeypatch, words, chosen, shard):
    monkeypatch.setattr("dlka_med.folds_folder.FoldsFolder.refuse_other", lambda self: None)
    assert cli.main(["train", "c.yaml", *words]) == 0
    name, (config, out, folds), keywords = library.calls[0]
    assert (name, config.name, folds, keywords) == ("train_folds", "brain", chosen, {"shard": shard, "reasons": {}})
    assert out == Path("images" if "-o" in words else "runs/brain")
    assert capsys.readouterr().out == "mean Dice 0.5\n"


def test_train_of_folds_takes_the_shard_of_its_launcher(library, monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "c.yaml", "--folds", "all", "-s", "training.devices=2"]) == 0
    assert cli.main(["train", "c.yaml", "--folds", "all"]) == 0
    assert [call[2]["shard"] for call in library.calls if call[0] == "train_folds"] == [(0, 1), (1, 2)]


def test_folds_that_are_not_all_there_print_no_table(library, capsys):
    library.stand_in("dlka_med.training.folds", train_folds=None)
    assert cli.main(["train", "c.yaml", "--folds", "0"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", [["--folds", "1-3"], ["--folds", "0,"], ["--shard", "2/2"], ["--shard", "1"]])
def test_folds_and_shards_that_cannot_be_are_refused(library, capsys, words):
    code, message = stop(["train", "c.yaml", "--folds", "all", *words], capsys)
    assert (code, message.count("\n")) == (2, 1)
    assert f"got '{words[1]}'" in message
    assert library.calls == []


def test_plan_calls(library):
    assert cli.main(["plan", "data", "-o", "new.yaml", "--minutes", "5", "--memory", "4", "--device", "cpu"]) == 0
    [(name, positional, keywords)] = library.calls
    assert (name, positional) == ("plan", (Path("data"), Path("new.yaml")))
    assert keywords == {
        "network": None,
        "minutes": 5.0,
        "epochs": None,
        "memory": 4.0,
        "device": "cpu",
        "workers": None,
    }


def test_train_refuses_a_folder_without_resume(library, capsys):
    assert cli.main(["train", "run"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert library.calls == []


def test_predict_calls(library):
    assert cli.main(["predict", "run", "images", "-o", "out", "--mirror", "--overlap", "0.25"]) == 0
    name, positional, keywords = library.calls[0]
    assert (name, positional) == ("predict_images", (Path("run"), Path("images"), Path("out")))
    assert keywords["mirror"] is True
    assert keywords["overlap"] == 0.25
    assert keywords["split"] is None
    assert keywords["one_file_per_case"] is False
    assert keywords["memory"] is None
    assert keywords["shard"] == (0, 1)
    words = ["--one-file-per-case", "--memory", "3.5", "--shard", "1/3"]
    assert cli.main(["predict", "run", "images", "-o", "out", *words]) == 0
    assert library.calls[1][2]["one_file_per_case"] is True
    assert library.calls[1][2]["memory"] == 3.5
    assert library.calls[1][2]["shard"] == (1, 3)


def test_predict_takes_its_shard_from_a_launcher(library, monkeypatch, tmp_path):
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["predict", "run", "images", "-o", str(tmp_path / "out")]) == 0
    assert library.calls[0][2]["shard"] == (2, 4)


def test_predict_is_fast_and_cropped_on_request(library, capsys):
    assert cli.main(["predict", "run", "images", "-o", "out"]) == 0
    assert (library.calls[0][2]["fast"], library.calls[0][2]["crop"]) == (False, None)
    assert cli.main(["predict", "run", "images", "-o", "out", "--fast", "--crop", "labels"]) == 0
    assert (library.calls[1][2]["fast"], library.calls[1][2]["crop"]) == (True, Path("labels"))
    for words in (["--mirror"], ["--overlap", "0.5"], ["--mirror-axes", "0"]):
        assert cli.main(["predict", "run", "images", "-o", "out", "--fast", *words]) == 2
        assert "--fast chooses overlap and mirroring itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "numbers"), [([], None), (["--probabilities"], "uint8"), (["--probabilities=float16"], "float16")]
)
def test_predict_calls_with_probabilities(library, words, numbers):
    assert cli.main(["predict", "run", "images", "-o", "out", *words]) == 0
    assert library.calls[0][2]["probabilities"] == numbers
    assert library.calls[0][2]["uncertainty"] is False


def test_predict_calls_with_uncertainty_and_thresholds(library):
    words = ["--uncertainty", "--threshold", "core=0.4", "--threshold", "a=b=0.25"]
    assert cli.main(["predict", "run", "images", "-o", "out", *words]) == 0
    assert library.calls[0][2]["uncertainty"] is True
    assert library.calls[0][2]["thresholds"] == {"core": 0.4, "a=b": 0.25}


def test_predict_calls_with_several_runs(library):
    assert cli.main(["predict", "run", "images", "-o", "out", "--with", "validated"]) == 0
    assert library.calls[0][1][0] == [Path("run"), Path("validated")]


@pytest.mark.parametrize(
    ("words", "mirror"), [([], False), (["--mirror-axes", "0,2"], (0, 2)), (["--mirror-axes=1", "--mirror"], (1,))]
)
def test_predict_mirrors_along_named_axes(library, words, mirror):
    assert cli.main(["predict", "run", "images", "-o", "out", *words]) == 0
    assert library.calls[0][2]["mirror"] == mirror


@pytest.mark.parametrize("text", ["3", "0,", "x", "0 1", "-1"])
def test_predict_refuses_axes_that_cannot_be(library, capsys, text):
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", "run", "images", "-o", "out", f"--mirror-axes={text}"])
    assert end.value.code == 2
    assert "axes from 0 to 2 with commas between" in capsys.readouterr().err


def test_evaluate_prints_the_table(library, capsys):
    assert cli.main(["evaluate", "predictions", "labels", "-o", "out", "--tolerance", "2", "--workers", "3"]) == 0
    assert library.calls[0][1] == (Path("predictions"), Path("labels"), Path("out"))
    plain = {"groups": None, "against": [], "strict": False}
    assert library.calls[0][2] == plain | {"protocol": Protocol(2.0), "workers": 3}
    assert capsys.readouterr().out == "dice 0.5\n"


def test_evaluate_takes_a_protocol(library):
    words = "evaluate predictions labels -o out --tolerance 2 --tolerance left=kidney=0.5 --lesions tumour cyst"
    words += " --lesion-overlap 0.3 --tubes vessel --convention brats --groups c.yaml"
    assert cli.main(words.split()) == 0
    expected = Protocol(2.0, {"left=kidney": 0.5}, ("vessel",), ("tumour", "cyst"), 0.3, "brats")
    assert library.calls[0][2]["protocol"] == expected
    assert library.calls[0][2]["groups"] == Path("c.yaml")


def test_evaluate_knows_all_conventions():
    assert tuple(metrics.CONVENTIONS) == evaluate_verb.CONVENTIONS


def test_schema_is_json_that_knows_the_keys(capsys):
    assert cli.main(["schema"]) == 0
    assert "training" in json.loads(capsys.readouterr().out)["properties"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("case 7 has no label: add it"), 2, "error: case 7 has no label: add it\n"),
        (PermissionError(errno.EACCES, "Denied", "out/a.txt"), 2, "error: out/a.txt: Denied\n"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "error: there is not enough memory (Unable to allocate 9 TiB)\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "stopped by the keyboard\n"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(library, capsys, error, code, message):
    library.stand_in("dlka_med.training.train", train=error)
    assert cli.main(["train", "c.yaml"]) == code
    assert capsys.readouterr().err == message


def test_debug_shows_the_trace(library, capsys):
    library.stand_in("dlka_med.training.train", train=InputError("no label"))
    for arguments in (["train", "c.yaml", "--debug"], ["--debug", "train", "c.yaml"]):
        assert cli.main(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


def test_a_mistake_of_the_program_keeps_its_trace(library):
    library.stand_in("dlka_med.training.train", train=RuntimeError("worker died"))
    with pytest.raises(RuntimeError, match="worker died"):
        cli.main(["train", "c.yaml"])


def test_config_mistake_from_the_real_command(tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text("nmae: x\n")
    done = subprocess.run([sys.executable, "-m", "dlka_med", "train", config], capture_output=True, text=True)
    assert done.returncode == 2
    assert "typo.yaml" in done.stderr
    assert "'name'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_crash():
    command = [sys.executable, "-m", "dlka_med", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
