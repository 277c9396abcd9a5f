"""Where DICOM files may lie, and what is wrong with archives."""

import zipfile

import pytest

from dlka_med.data.dicom.source import files, holds_dicom, marks
from dlka_med.errors import InputError
from tests.dicom_series import oblique, voxels_of, write_series


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "series", voxels_of((4, 3, 2)), oblique())
    return tmp_path / "series"


def archive(path, contents):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_files_are_told_by_their_first_bytes(tmp_path, series, kind):
    slices = {name: (series / name).read_bytes() for name in ("IM000", "IM001")}
    others = {"notes.txt": b"x" * 500, ".hidden": slices["IM000"], "empty": b""}
    path = tmp_path / "in"
    if kind == "zip":
        path = archive(
            tmp_path / "in.zip",
            {f"deep/{k}": v for k, v in (slices | others).items()} | {"__MACOSX/deep/._IM000": slices["IM000"]},
        )
    else:
        (path / "deep").mkdir(parents=True)
        for name, content in (slices | others).items():
            (path / "deep" / name).write_bytes(content)
    assert {name: stream.read() for name, stream in files(path)} == {f"deep/{k}": v for k, v in slices.items()}
    assert [name for name, _ in files(path, {"deep/IM001"})] == ["deep/IM001"]
    assert holds_dicom(path)


def test_marks_change_with_the_files(series):
    before = marks(series)
    assert before == marks(series)
    (series / "IM000").write_bytes(b"x")
    assert marks(series) != before


def test_a_file_that_calls_itself_dicom_and_is_none(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x" * 500)
    with pytest.raises(InputError, match=r"a\.dcm is damaged or no DICOM file"):
        holds_dicom(tmp_path)


def test_damaged_archives(tmp_path, series):
    whole = archive(tmp_path / "x.zip", {"IM000": (series / "IM000").read_bytes()}).read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.zip is a damaged zip file: copy it again"):
        holds_dicom(tmp_path / "x.zip")
    place = whole.index(b"Mustermann")
    (tmp_path / "x.zip").write_bytes(whole[:place] + b"X" + whole[place + 1 :])
    with pytest.raises(InputError, match=r"x\.zip is a damaged zip file"):
        holds_dicom(tmp_path / "x.zip")


def test_an_encrypted_archive(tmp_path, series):
    whole = bytearray(archive(tmp_path / "x.zip", {"IM000": (series / "IM000").read_bytes()}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + offset] |= 1
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(InputError, match=r"x\.zip is encrypted: copy it again, or unpack it"):
        holds_dicom(tmp_path / "x.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_files_of_one_name(tmp_path, series):
    """One would be read for the other."""
    content = (series / "IM000").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for _ in range(2):
            packed.writestr("deep/", b"")
            packed.writestr("deep/IM000", content)
    with pytest.raises(InputError, match=r"x\.zip.deep.IM000 is there twice: pack"):
        holds_dicom(tmp_path / "x.zip")
