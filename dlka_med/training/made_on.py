"""How a run was made: on which machines, with which versions, and why with these settings."""

import json
from collections.abc import Mapping
from datetime import datetime

from dlka_med.files import whole_file
from dlka_med.machine import hardware, software
from dlka_med.run_folder import RunFolder


def note_machine(run: RunFolder) -> None:
    """Add an entry to `machine.json` of the run; one that is damaged begins anew."""
    try:
        known = json.loads(run.machine_file.read_text(encoding="utf-8"))
        known = known if isinstance(known, list) else []
    except (OSError, ValueError):
        known = []
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    known.append({"began": began, "versions": software(), **hardware()})
    with whole_file(run.machine_file) as file:
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def note_reasons(run: RunFolder, reasons: Mapping[str, str]) -> None:
    """Write `reasons.json` of the run, if there are any and none were noted before; keys are dotted."""
    if reasons and not run.reasons_file.exists():
        with whole_file(run.reasons_file) as file:
            file.write_text(json.dumps(dict(reasons), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
