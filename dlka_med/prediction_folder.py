"""What a folder of label maps remembers: which run made each of them, and which cases failed."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.shards import claimed, lock_of
from dlka_med.text_files import read_text

PARTS = ("train", "validation", "test", "new", "unknown")


@dataclass(frozen=True)
class Made:
    """By which run, and its settings, a label map was made.

    Args:
        run: their id.
        part: that the case had in the run: train, validation, test or new; unknown, where nobody knows what trained the
            weights; None while the label map is not there yet, or is that of another run still.
        mask: a mark of the content of the mask about which the image was cropped; None: it was not.
        image: a fingerprint of the image; None: not known.
    """

    run: str
    part: str | None = None
    mask: str | None = None
    image: str | None = None

    @property
    def content(self) -> dict[str, str | None]:
        """As it stands in `cases.json`."""
        marks = {"mask": self.mask, "image": self.image}
        return {"run": self.run, "part": self.part} | {key: mark for key, mark in marks.items() if mark is not None}


@dataclass(frozen=True)
class PredictionFolder:
    """A folder made by predicting, which several processes may share.

    <case>.nii.gz, ...   label maps
    labels.json          names of their values
    cases.json           for each case the id of the run, and whether the case trained or validated it or is new to it
    failed.json          why cases could not be predicted; only where there are such
    """

    path: Path

    @property
    def cases_file(self) -> Path:
        return self.path / "cases.json"

    @property
    def failed_file(self) -> Path:
        return self.path / "failed.json"

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """What is known of each run, by its id.

        Raises:
            InputError: `cases.json` is damaged.
        """
        return self._read()[0]

    @property
    def made(self) -> dict[str, Made]:
        """Who made what, by case id; empty where nothing is remembered.

        Raises:
            InputError: `cases.json` is damaged.
        """
        return self._read()[1]

    def begin(self, run: str, facts: Mapping[str, Any], cases: Collection[str]) -> None:
        """Note that a run is about to make the label maps of these cases.

        Raises:
            InputError: `cases.json` is damaged, or the file system knows no locks.
            WriteError: it cannot be written.
        """

        def change(runs: dict[str, dict[str, Any]], made: dict[str, Made]) -> None:
            runs[run] = dict(facts)
            made.update({case: Made(run) for case in cases})

        self._change(change)

    def finish(self, case: str, made: Made) -> None:
        """Note that the label map of a case is there; the errors are those of `begin`."""
        self._change(lambda _, known: known.update({case: made}))
        self._tell_failure(case, None)

    def fail(self, case: str, reason: str) -> None:
        """Note in `failed.json` why there is no label map of a case; the errors are those of `begin`."""
        self._tell_failure(case, reason)

    def _change(self, change: Callable[[dict[str, dict[str, Any]], dict[str, Made]], None]) -> None:
        with claimed(lock_of(self.cases_file), wait=True, silently=True):
            runs, made = self._read()
            change(runs, made)
            used = {one.run for one in made.values()}
            content = {
                "runs": {name: facts for name, facts in runs.items() if name in used},
                "cases": {case: made[case].content for case in sorted(made)},
            }
            _write(self.cases_file, content)

    def _tell_failure(self, case: str, reason: str | None) -> None:
        if reason is None and not self.failed_file.exists():
            return
        with claimed(lock_of(self.cases_file), wait=True, silently=True):
            try:
                failed = dict(json.loads(read_text(self.failed_file))) if self.failed_file.exists() else {}
            except (ValueError, TypeError):
                failed = {}  # nothing depends on it
            if reason is None:
                failed.pop(case, None)
            else:
                failed[case] = reason
            if failed:
                _write(self.failed_file, dict(sorted(failed.items())))
            else:
                self.failed_file.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, dict[str, Any]], dict[str, Made]]:
        file = self.cases_file
        if not file.is_file():
            return {}, {}
        try:
            content = json.loads(read_text(file))
            runs = {str(name): dict(facts) for name, facts in content["runs"].items()}
            made = {
                str(case): Made(str(one["run"]), one["part"], one.get("mask"), one.get("image"))
                for case, one in content["cases"].items()
            }
            if strange := [one.part for one in made.values() if one.part not in (None, *PARTS)]:
                raise ValueError(f"part is {strange[0]!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"cannot read {file}, which says which run made which label map ({error}): name another folder, or "
                "move these label maps away"
            ) from error
        return runs, made


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
