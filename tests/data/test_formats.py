"""What a folder holds, in a few words."""

from dlka_med.data.formats import contents


def test_a_folder_is_told_by_its_folders_and_endings(tmp_path):
    assert contents(tmp_path) == "nothing"
    for name in ("a.nii.gz", "b.nii.gz", "C.NII.GZ", "d.png", "README", ".hidden"):
        (tmp_path / name).touch()
    assert contents(tmp_path) == "3 files .nii.gz, 1 file without ending, 1 file .png"
    for name in ("scans", "masks"):
        (tmp_path / name).mkdir()
    assert contents(tmp_path) == "the folders masks, scans and 3 files .nii.gz, 1 file without ending, 1 file .png"
