"""Which files hold images or labels, told by their names."""

import os
from collections import Counter
from pathlib import Path

from dlka_med.data.refusals import Refusals, refuse
from dlka_med.errors import InputError
from dlka_med.paths import shown

NIFTI_ENDINGS = (".nii.gz", ".nii", ".hdr")
ITK_ENDINGS = (".nrrd", ".mha", ".mhd")
VOLUME_ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)
RASTER_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
HEADER_BYTES = 2**16  # of a MetaImage header, at most
LOSSY_ENDINGS = (".jpg", ".jpeg")
ENDINGS = (*VOLUME_ENDINGS, *RASTER_ENDINGS)
LISTED = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
DICOM_ENDINGS = (".dcm", ".ima", ".zip")
DICOM_MAGIC = b"DICM"
DICOM_PREAMBLE = 128  # bytes before it
OUTPUTS = {"nii.gz": ".nii.gz", "nii": ".nii", "nrrd": ".nrrd", "mha": ".mha", "dicom-seg": ".dcm"}
"""What label maps of volumes can be written as, and how such files end."""


def ending(path: Path) -> str:
    """The part of the name that says what the file is, such as `.nii.gz`; `InputError` if it is none of ours."""
    for known in ENDINGS:
        if path.name.lower().endswith(known):
            return path.name[-len(known) :]
    raise InputError(f"{path} is no image file: expected a name that ends with {LISTED}")


def is_volume(path: Path) -> bool:
    """Whether the file is a volume rather than PNG, TIFF or JPEG; `InputError` if it is none of them."""
    return is_dicom(path) or ending(path).lower() in VOLUME_ENDINGS


def is_dicom(path: Path) -> bool:
    """Whether a case of this path is a DICOM series: a folder, a zip file or one DICOM file, whatever its name."""
    name = path.name.lower()
    if name.endswith((*DICOM_ENDINGS, *ENDINGS)):
        return name.endswith(DICOM_ENDINGS)
    return path.is_dir() or _begins_like_dicom(path)


def _begins_like_dicom(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(DICOM_PREAMBLE + len(DICOM_MAGIC))[DICOM_PREAMBLE:] == DICOM_MAGIC
    except OSError:
        return False


def stem(path: Path) -> str:
    """The file name without its ending."""
    return path.name[: -len(ending(path))]


def case_id(path: Path) -> str:
    """The file name without its ending and the mark `_0000` of the first channel."""
    return stem(path).removesuffix("_0000")


def usable_files(folder: Path, refusals: Refusals | None = None) -> list[Path]:
    """The folder's volumes and PNG, TIFF and JPEG files by name, hidden ones left out.

    Raises:
        InputError: as in `has_usable_name`.
    """
    has_usable_name(folder)
    named = (file for file in folder.glob("*") if file.name.lower().endswith(ENDINGS) and file.name[0] != ".")
    return [file for file in sorted(named) if has_usable_name(file, refusals)]


def has_usable_name(path: Path, refusals: Refusals | None = None) -> bool:
    """Whether a path is valid UTF-8, so that tables, JSON files and logs can name it.

    Raises:
        InputError: it is not, and nobody collects refusals.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        printable = shown(path)
        said = f"{printable}: the name is not valid UTF-8, as in archives of old systems: rename it"
        refuse(refusals, "file-stray", Path(printable), said)
        return False
    return True


def contents(folder: Path) -> str:
    """What a folder holds, in a few words: its folders by name, its files by their endings."""
    folders, endings = [], Counter()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry.name)
        else:
            known = next((known for known in ENDINGS if entry.name.lower().endswith(known)), entry.suffix.lower())
            endings[known or "without ending"] += 1
    said = [f"{count} files {known}" if count > 1 else f"1 file {known}" for known, count in endings.most_common(5)]
    named = f"the folders {', '.join(folders[:8])}{', ...' if len(folders) > 8 else ''}"
    return " and ".join([*([named] if folders else []), *([", ".join(said)] if said else [])]) or "nothing"


def with_partner(path: Path) -> tuple[Path, ...]:
    """The files that hold an image: the voxels of `.hdr` and `.mhd` lie in another one.

    Raises:
        InputError: the other one is not there, or the header does not name it.
    """
    kind = path.name.lower()
    if kind.endswith(".hdr"):
        base = path.name[: -len(".hdr")]
        ends = (".IMG", ".IMG.gz") if path.name.endswith(".HDR") else (".img", ".img.gz")
        candidates = [path.with_name(base + end) for end in ends]
    elif kind.endswith((".mhd", ".mha")) and path.is_file():
        candidates = [path.with_name(_data_file(path))]
    else:
        return (path,)
    if candidates == [path]:
        return (path,)
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise InputError(f"{path} is a header alone, its voxels are missing: put {candidates[0].name} beside it")
    return path, found


def files_of(path: Path) -> tuple[Path, ...]:
    """As `with_partner`, of a file that may be broken."""
    try:
        return with_partner(path)
    except (InputError, OSError):
        return (path,)


def _data_file(header: Path) -> str:
    """What a MetaImage header names as its file of voxels; its own name where they follow in the same file."""
    with header.open("rb") as stream:
        lines = stream.read(HEADER_BYTES).decode("latin-1").splitlines()
    named = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "ElementDataFile"]
    if not named or named[0].upper().startswith("LIST") or set(named[0]) & set("%/\\\0") or named[0] in ("", ".", ".."):
        raise InputError(f"{header} names no single file of voxels beside it (ElementDataFile): save it as one .mha")
    return header.name if named[0].upper() == "LOCAL" else named[0]


def label_files(folder: Path, refusals: Refusals | None = None) -> dict[str, Path]:
    """The folder's label maps by file name without ending.

    Raises:
        InputError: two of them share a name, or a name is not valid UTF-8.
    """
    found: dict[str, Path] = {}
    for file in usable_files(folder, refusals):
        if stem(file) in found:
            said = f"{file} and {found[stem(file)].name} are two label maps of one case: remove one"
            refuse(refusals, "case-twice", file, said)
        else:
            found[stem(file)] = file
    return found


def check_file(path: Path) -> None:
    """Raise `InputError` unless the file is there and holds something."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, but an image file was expected: put the file in it there instead")
    if not path.is_file():
        lacking = "is a link that leads to no file: mend or remove it" if path.is_symlink() else "does not exist"
        raise InputError(f"{path} {lacking}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): copy or export it again")
