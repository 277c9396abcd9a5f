"""What the headers of DICOM files say that matters here; whom they are of is not kept."""

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dlka_med.data.clinic import lacking
from dlka_med.data.dicom.source import Mark, files
from dlka_med.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

NO_IMAGES = ("SEG", "RTDOSE")  # have pixels, but not of the patient
READ = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType"),
    *("PatientID", "PatientName", "PatientIdentityRemoved", "Rows", "Columns", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
)
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR
WORDS = re.compile(r"[^\W\d_]{3,}|[^\W\d_\x00-\u024f]+")
"""Parts of a name that tell whose it is: in Latin letters of three or more, in others, as Chinese ones, of any."""
BROKEN = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OverflowError)
"""What pydicom raises for a damaged file, beside its own; its words may hold what the header does, ours do not."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """One file of a series.

    Args:
        file: its name within the source.
        patient: a mark that two patients do not share.
        tells: whether the name of the source tells that of the patient.
        frames: of a multi-frame file; None: it is one slice, and the following says where it lies.
        position: of the centre of the first pixel, in mm (L, P, S).
        orientation: two unit vectors: along the row, where the column counts up, and along the column.
        spacing: mm between rows and between columns.
        thickness: mm between slices, or of one, as far as the header says.
    """

    file: str
    uid: str
    instance: str
    number: str
    modality: str
    patient: str
    tells: bool
    rows: int
    columns: int
    is_localiser: bool
    frames: int | None = None
    position: Numbers | None = None
    orientation: Numbers | None = None
    spacing: Numbers | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class Series:
    """The files of one series in a source: a folder, a zip file or a file."""

    source: Path
    uid: str
    headers: tuple[Header, ...] = field(repr=False)

    @property
    def number(self) -> str:
        return self.headers[0].number

    @property
    def modality(self) -> str:
        return self.headers[0].modality

    @property
    def slices(self) -> int:
        return sum(header.frames or 1 for header in self.headers)

    @property
    def is_image(self) -> bool:
        first = self.headers[0]
        return bool(first.rows and first.columns) and first.modality not in NO_IMAGES

    @property
    def is_volume(self) -> bool:
        """Whether it looks like the one that somebody means: no localiser, no screenshot, no single slice."""
        first = self.headers[0]
        has_place = first.frames is not None or first.position is not None
        return self.is_image and has_place and self.slices > 1 and not any(one.is_localiser for one in self.headers)

    def __str__(self) -> str:
        first = self.headers[0]
        what = f"{self.slices} slice{'s' * (self.slices != 1)} of {first.columns} x {first.rows}"
        return f"series {self.number or 'without number'} ({self.modality or 'no modality'}, {what})"


@lru_cache(maxsize=4)
def scan(source: Path, marks: tuple[Mark, ...]) -> tuple[Series, ...]:
    """The series of a source by number, each with its files by name; a file that is there twice counts once.

    Args:
        marks: of the source, as it is now.

    Raises:
        InputError: pydicom is not installed, or a file is damaged.
    """
    found: dict[str, dict[str, Header]] = {}
    with quietly():
        for name, stream in files(source):
            dataset = read(source, name, stream, READ)
            with intact(source, name):
                if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
                    continue
                header = _header(source, name, dataset)
            if not header.uid or not header.instance:
                raise InputError(
                    f"{place(source, name)} is damaged, its header does not tell of which series it is: copy or export "
                    "it again, or move it away"
                )
            found.setdefault(header.uid, {}).setdefault(header.instance, header)
    series = [Series(source, uid, tuple(by_instance.values())) for uid, by_instance in found.items()]
    return tuple(sorted(series, key=lambda one: (_natural(one.number), one.uid)))


def read(
    source: Path, name: str, stream: BinaryIO, tags: tuple[str, ...] | None = None, *, pixels: bool = False
) -> "Dataset":
    """A file as pydicom reads it.

    Args:
        tags: these alone; None: all.

    Raises:
        InputError: pydicom is not installed, or the file is damaged.
    """
    try:
        import pydicom
    except ImportError as error:
        raise lacking(error, "pydicom", "DICOM is read") from error
    with intact(source, name):
        return pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=tags and list(tags))


@contextmanager
def intact(source: Path, name: str) -> Iterator[None]:
    """Around what is done with a file: whatever pydicom raises, also when a value is asked for, means damage.

    Raises:
        InputError: the file is damaged; nothing of what pydicom says is told.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{place(source, name)} is damaged ({type(error).__name__}): copy or export it again"
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of pydicom and highdicom, whose words may hold what the header does."""
    with warnings.catch_warnings():
        for module in ("pydicom", "highdicom", "dlka_med.data.dicom", "dlka_med.inference.dicom"):
            warnings.filterwarnings("ignore", module=re.escape(module))
        yield


def place(source: Path, name: str) -> Path:
    """How a file of a source is called in a message."""
    return source / name if source.name != name else source


def numbers(dataset: "Dataset", key: str, count: int) -> Numbers | None:
    """So many numbers, finite, or None."""
    try:
        found = dataset.get(key)
        values = tuple(float(value) for value in ([found] if count == 1 else found))
    except Exception:  # pydicom converts a value when it is asked for
        return None
    return values if len(values) == count and all(abs(value) < float("inf") for value in values) else None


def fault_of(dataset: "Dataset", error: Exception) -> str:
    """Why no object could be made that refers to a file: the keyword of what its header lacks or has wrong."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.valuerep import DA, TM

    if isinstance(error, AttributeError) and error.name and tag_for_keyword(error.name) is not None:
        return f"has no {error.name}"
    kinds = {"StudyDate": DA, "StudyTime": TM, "PatientBirthDate": DA, "PatientSex": ("M", "F", "O").index}
    for key, kind in kinds.items():
        try:
            if value := dataset.get(key):
                kind(value)
        except BROKEN:
            return f"has an invalid {key}"
    return f"lacks something or has an invalid value ({type(error).__name__})"


def _header(source: Path, name: str, dataset: "Dataset") -> Header:
    frames = numbers(dataset, "NumberOfFrames", 1)
    thicknesses = (numbers(dataset, key, 1) for key in ("SpacingBetweenSlices", "SliceThickness"))
    known = [number[0] for number in thicknesses if number is not None and number[0] > 0]
    patient = (_text(dataset, "PatientID"), _text(dataset, "PatientName"))
    sizes = [numbers(dataset, key, 1) or (0,) for key in ("Rows", "Columns")]
    return Header(
        file=name,
        uid=_text(dataset, "SeriesInstanceUID"),
        instance=_text(dataset, "SOPInstanceUID"),
        number=_text(dataset, "SeriesNumber"),
        modality=_text(dataset, "Modality")[:16],
        patient=hashlib.sha256(repr(patient).encode()).hexdigest() if any(patient) else "",
        tells=_tells(source.resolve().name, *patient, _text(dataset, "PatientIdentityRemoved")),
        rows=int(sizes[0][0]),
        columns=int(sizes[1][0]),
        is_localiser="LOCALIZER" in _text(dataset, "ImageType").upper(),
        frames=None if frames is None or _is_classic(dataset) else int(frames[0]),
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        spacing=numbers(dataset, "PixelSpacing", 2),
        thickness=next(iter(known), None),
    )


def _is_classic(dataset: "Dataset") -> bool:
    """Whether a file is a single slice that names its frames all the same."""
    return numbers(dataset, "NumberOfFrames", 1) == (1.0,) and numbers(dataset, "ImagePositionPatient", 3) is not None


def _tells(source: str, identity: str, name: str, removed: str) -> bool:
    """Whether a source is called after a patient who is not known to be anonymous."""
    if removed.upper() == "YES" or name == identity:
        return False
    return any(word in source.lower() for word in WORDS.findall(name.lower()))


def _text(dataset: "Dataset", key: str) -> str:
    try:
        found: Any = dataset.get(key)
    except Exception:  # as in `numbers`
        return ""
    return "" if found is None else str(found)


def _natural(number: str) -> tuple[int, str]:
    return (int(number) if number.isdecimal() else 2**31, number)
