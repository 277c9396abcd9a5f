import json
import platform

import torch

from dlka_med.machine import hardware, software
from dlka_med.run_folder import RunFolder
from dlka_med.training.made_on import note_machine, note_reasons


def test_every_start_adds_an_entry(tmp_path):
    run = RunFolder(tmp_path)
    for count in (1, 2):
        note_machine(run)
        noted = json.loads(run.machine_file.read_text())
        assert len(noted) == count
        assert noted[-1]["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        assert noted[-1]["versions"]["python"] == platform.python_version()
        assert noted[-1]["processor"]
    run.machine_file.write_text("{")
    note_machine(run)
    assert len(json.loads(run.machine_file.read_text())) == 1


def test_nothing_names_the_machine_or_its_user():
    told = json.dumps([hardware(), software()])
    assert platform.node() not in told or not platform.node()


def test_reasons_are_those_of_the_beginning(tmp_path):
    run = RunFolder(tmp_path)
    note_reasons(run, {})
    assert not run.reasons_file.exists()
    note_reasons(run, {"seed": "µ"})
    note_reasons(run, {"seed": "another"})
    assert json.loads(run.reasons_file.read_text(encoding="utf-8")) == {"seed": "µ"}
