"""Which cases trained the weights of a run, those of the runs that it started from included."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlka_med.data.cases import Case, dataset_of
from dlka_med.data.formats import files_of
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.run_folder import RunFolder

FILE = "trained_on.json"
SAMPLE = 2**16  # bytes at either end of an image
PLACES, PLACE = 128, 2**12  # where else it is looked into, and bytes there: borders of volumes are often empty
DIGITS = 20  # of a fingerprint; those of earlier versions, of the ends alone, had fewer


@dataclass(frozen=True)
class Provenance:
    """Ids and fingerprints of the cases that trained some weights; a fingerprint is empty where it is not known.

    Attributes:
        complete: whether these are all, which nobody can say of imported weights.
        validated: fingerprints of the cases by which the last training chose its weights, as far as they are known.
    """

    cases: frozenset[tuple[str, str]] = frozenset()
    complete: bool = True
    validated: frozenset[str] = frozenset()

    @classmethod
    def of_run(cls, run: RunFolder) -> "Provenance":
        """What a run folder says of its weights; of one made by an earlier version, what its split and config say.

        Raises:
            InputError: `trained_on.json` is damaged.
        """
        return _recorded(run) if (run.path / FILE).is_file() else _of_earlier_version(run, frozenset())

    def save(self, run: RunFolder) -> None:
        """Write `trained_on.json` into the run folder."""
        content = {
            "complete": self.complete,
            "cases": sorted(map(list, self.cases)),
            "validated": sorted(self.validated),
        }
        with whole_file(run.path / FILE) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def joined(self, cases: Iterable[Case], validated: Iterable[Case] = ()) -> "Provenance":
        """With the cases of a further training, and those that validated it in place of the ones before."""
        trained = self.cases | {(case.id, fingerprint(case)) for case in cases}
        return Provenance(trained, self.complete, frozenset(map(fingerprint, validated)))

    def outdated(self, cases: Iterable[Case]) -> list[str]:
        """Ids of those cases that trained under their names, but with other images than they have now."""
        names = {name for name, print_ in self.cases if print_}
        return [case.id for case in cases if case.id in names and (case.id, fingerprint(case)) not in self.cases]

    def trained(self, case: str, image: str | None) -> bool:
        """Whether an image of this fingerprint (None: not known) trained, or, where content tells no more, its name."""
        of_name = {print_ for name, print_ in self.cases if name == case}
        return image in {print_ for _, print_ in self.cases} or (bool(of_name) and (image is None or not any(of_name)))

    def among(self, cases: Sequence[Case]) -> tuple[list[str], list[str]]:
        """Ids of those cases that certainly trained, by their content, and that perhaps did, by their name."""
        known = {print_ for _, print_ in self.cases}
        certain = [case.id for case in cases if fingerprint(case) in known]
        names = {name for name, _ in self.cases} - set(certain)
        return certain, [case.id for case in cases if case.id in names]


def fingerprint(case: Case) -> str:
    """A digest of a case's first image: the same for copies under other names.

    The first by name, whatever order the channels are read in.

    Raises:
        InputError: the file cannot be read.
    """
    return digest(min(case.images, key=lambda path: path.name))


def digest(image: Path) -> str:
    """Of the size, both ends and many places between of a file, so that large ones need not be read whole.

    Of `.hdr` and `.mhd` the file with the voxels counts: headers of equal volumes are the same.

    Raises:
        InputError: the file cannot be read.
    """
    image = files_of(image)[-1]
    try:
        size = image.stat().st_size
        step = max((size - 2 * SAMPLE) // PLACES, PLACE)
        content = hashlib.sha256(b"%d " % size)
        with image.open("rb") as file:
            content.update(file.read(SAMPLE))
            for place in range(SAMPLE, size - SAMPLE, step):
                file.seek(place)
                content.update(file.read(PLACE))
            file.seek(max(size - SAMPLE, 0))
            content.update(file.read(SAMPLE))
    except OSError as error:
        raise InputError(f"{image} cannot be read: {error.strerror}") from error
    return content.hexdigest()[:DIGITS]


def _recorded(run: RunFolder) -> Provenance:
    try:
        content = json.loads((run.path / FILE).read_text(encoding="utf-8"))
        cases = frozenset((str(name), _known(print_)) for name, print_ in content["cases"])
        validated = frozenset(map(_known, content.get("validated", []))) - {""}
        return Provenance(cases, content["complete"] is True, validated)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read {run.path / FILE} ({error}): copy it again; without the file, the run's split counts"
        ) from error


def _known(print_: object) -> str:
    return text if len(text := str(print_)) == DIGITS else ""


def _of_earlier_version(run: RunFolder, children: frozenset[Path]) -> Provenance:
    ids, dataset = set(run.split["train"]), run.config.dataset
    here, complete = Provenance(frozenset((name, "") for name in ids)), bool(ids)
    try:
        read = dataset_of(dataset, grouped=False)
        found = [case for case in read.cases if case.id in ids]
        known = Provenance().joined(found, [case for case in read.cases if case.id in run.split["validation"]])
        unknown = {(name, "") for name in ids - {case.id for case in found}}
        here = Provenance(known.cases | unknown, validated=known.validated)
    except InputError:
        pass  # The data lie elsewhere today: their names have to do.
    start = run.config.training.start_from
    if start is None:
        return Provenance(here.cases, complete, here.validated)
    try:
        parent, children = RunFolder.open(start), children | {run.path.resolve()}
        if parent.path.resolve() in children:
            return Provenance(here.cases, complete=False, validated=here.validated)
        recorded = (parent.path / FILE).is_file()
        before = _recorded(parent) if recorded else _of_earlier_version(parent, children)
    except InputError:
        return Provenance(here.cases, complete=False, validated=here.validated)
    return Provenance(here.cases | before.cases, complete and before.complete, here.validated)
