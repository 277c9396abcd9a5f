import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlka_med import files
from dlka_med.errors import InputError, WriteError
from dlka_med.files import refuse_existing, remove_unfinished, whole_file, whole_folder, writable_folder


def break_off(writing, failure):
    """Write something, then fail."""
    with writing as temporary:
        (temporary / "inside" if temporary.is_dir() else temporary).write_text("half")
        raise failure


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "case.nii.gz"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["case.nii.gz"]


@pytest.mark.parametrize("letter", ["a", "é", "脑", "\udcfc"], ids=ascii)
def test_the_longest_names_that_a_file_system_takes(tmp_path, letter):
    name = letter * (248 // len(os.fsencode(letter))) + ".nii.gz"
    with whole_file(tmp_path / name) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("x")
    with whole_folder(tmp_path / "runs" / name) as unfinished:
        (unfinished / "inside").write_text("x")
    unfinished.mkdir()
    remove_unfinished(tmp_path / "runs" / name)
    assert os.listdir(tmp_path / "runs") == [name]
    assert sorted(os.listdir(tmp_path)) == sorted([name, "runs"])


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_file_leaves_the_old_one(tmp_path, failure):
    path = tmp_path / "case.txt"
    path.write_text("old")
    with pytest.raises(failure):
        break_off(whole_file(path), failure)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["case.txt"]


def test_a_file_gets_the_usual_rights(tmp_path):
    with whole_file(tmp_path / "whole") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "run"
    with whole_folder(path) as temporary:
        (temporary / "inside").write_text("x")
        assert not path.exists()
    assert os.listdir(path) == ["inside"]
    assert os.listdir(tmp_path) == ["run"]
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("kind", ["plain", "link", "here", "mounted"])
def test_an_empty_folder_that_is_there_is_filled(tmp_path, monkeypatch, kind):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    if kind == "here":
        monkeypatch.chdir(real)
    if kind == "mounted":
        monkeypatch.setattr(Path, "rmdir", lambda path: pytest.fail("a mounted disk cannot be removed"))
    before = real.stat().st_ino
    with whole_folder({"link": tmp_path / "link", "here": Path()}.get(kind, real)) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "inside").write_text("x")
        assert not [name for name in os.listdir(real) if not name.startswith(files.UNFINISHED)]
    assert os.listdir(real) == ["sub"]
    assert os.listdir(real / "sub") == ["inside"]
    assert real.stat().st_ino == before
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_failed_folder_leaves_nothing(tmp_path, is_there):
    with pytest.raises(KeyError):
        break_off(whole_folder(tmp_path if is_there else tmp_path / "run"), KeyError)
    assert os.listdir(tmp_path) == []


def test_a_full_folder_is_refused(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    refuse_existing(path)
    (path / "weights").write_text("old")
    with pytest.raises(InputError, match="exists already and is not empty"), whole_folder(path):
        pass
    with pytest.raises(InputError, match="exists already"):
        refuse_existing(path / "weights")
    assert (path / "weights").read_text() == "old"
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="exists already"):
        refuse_existing(tmp_path / "link")


def test_what_a_killed_process_left_is_no_content(tmp_path):
    (tmp_path / f"{files.UNFINISHED}abcdefgh-run").mkdir()
    refuse_existing(tmp_path)


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match="cannot write to the folder"),
        whole_file(tmp_path / "file" / "a.txt"),
    ):
        pass


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="NOT TESTED: root may write anywhere")
def test_a_folder_without_rights_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="change its rights"):
        writable_folder(tmp_path)


@pytest.mark.parametrize(
    "failure",
    [OSError("58800 requested and 52192 written"), RuntimeError("I/O error: No space left on device (os error 28)")],
)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_named(tmp_path, monkeypatch, whole, failure):
    # numpy's words do not name it, so the free space decides.
    monkeypatch.setattr("dlka_med.files.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    told = f"{tmp_path / 'new'} cannot be written, no space is left"
    with pytest.raises(WriteError, match=told), whole(tmp_path / "new"):
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_the_disk_of_a_folder_that_is_there_counts(tmp_path, monkeypatch):
    free = {tmp_path / "mounted": 0}
    monkeypatch.setattr(
        "dlka_med.files.shutil.disk_usage", lambda path: SimpleNamespace(free=free.get(Path(path), 10**12))
    )
    (tmp_path / "mounted").mkdir()
    with pytest.raises(WriteError, match="mounted cannot be written, no space is left"):
        break_off(whole_folder(tmp_path / "mounted"), OSError("58800 requested and 52192 written"))


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/dlka_med"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "HOME/.cache/dlka_med"),
        ("linux", {}, "HOME/.cache/dlka_med"),
        ("darwin", {"XDG_CACHE_HOME": "/somewhere"}, "HOME/Library/Caches/dlka_med"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/dlka_med"),
        ("win32", {}, "HOME/AppData/Local/dlka_med"),
    ],
)
def test_the_cache_folder_of_the_system(monkeypatch, tmp_path, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setattr(files.Path, "home", lambda: tmp_path)
    assert files.user_cache_folder() == Path(expected.replace("HOME", str(tmp_path)))


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / "run" / "inside").mkdir(parents=True)
    program = """if True:
        import os, signal, sys
        from dlka_med.files import whole_file, whole_folder
        whole = {"file": whole_file, "folder": whole_folder}[sys.argv[1]]
        with whole(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    for kind, name in (("file", "run/weights"), ("folder", "run/pictures"), ("folder", "new"), ("folder", "a-new")):
        killed = subprocess.run([sys.executable, "-c", program, kind, tmp_path / name])
        assert killed.returncode == -signal.SIGKILL
    (tmp_path / "run" / "kept").write_text("x")
    (tmp_path / "run" / "inside" / ".writing-12345678-x").write_text("of another writer")
    assert len(os.listdir(tmp_path / "run")) == 4
    remove_unfinished(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == ["inside", "kept"]
    assert len(os.listdir(tmp_path / "run" / "inside")) == 1
    remove_unfinished(tmp_path / "new")
    assert [name[-6:] for name in os.listdir(tmp_path) if name != "run"] == ["-a-new"]
    remove_unfinished(tmp_path / "nowhere" / "at all")
