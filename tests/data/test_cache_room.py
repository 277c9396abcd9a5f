import errno
import os
import subprocess
import sys

import pytest

from dlka_med.config.dataset import Preprocessing
from dlka_med.data import cache, cache_room
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cache_room import Lease, make_room
from dlka_med.errors import InputError
from dlka_med.files import whole_folder

HOLD = """
import sys
from pathlib import Path
from dlka_med.data.cache_room import Lease

root = Path(sys.argv[1])
lease = Lease(root, [root / "prepared-x" / "b"])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def root(tmp_path):
    """Three entries of 1000 bytes and some, a unused longest; a foreign folder beside them."""
    for number, name in enumerate("abc"):
        with whole_folder(tmp_path / "prepared-x" / name) as folder:
            (folder / "image.npy").write_bytes(bytes(1000))
            (folder / "facts.json").write_text("{}")
        os.utime(tmp_path / "prepared-x" / name / "facts.json", (number, number))
    (tmp_path / "mine" / "y").mkdir(parents=True)
    (tmp_path / "mine" / "y" / "facts.json").write_bytes(bytes(5000))
    return tmp_path


def left(root):
    return sorted(path.name for path in (root / "prepared-x").iterdir())


def test_what_went_unused_longest_goes_first(root):
    assert make_room(root, 4000) == 0
    assert left(root) == ["a", "b", "c"]
    assert make_room(root, 2500) == 0
    assert left(root) == ["b", "c"]
    assert make_room(root, 0) == 0
    assert left(root) == []
    assert (root / "mine" / "y" / "facts.json").exists()


def test_entries_of_a_living_process_stay_and_those_of_a_dead_one_do_not(root):
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            assert make_room(root, 500) == 502
            assert left(root) == ["b"]
        finally:
            other.kill()
    assert make_room(root, 500) == 0
    assert left(root) == []
    assert [file.name for file in (root / ".in-use").iterdir() if file.suffix == ".json"] == []


def test_a_lease_ends_with_its_object(root):
    lease = Lease(root, [root / "prepared-x" / "a"])
    make_room(root, 0)
    assert left(root) == ["a"]
    del lease
    make_room(root, 0)
    assert left(root) == []


def test_a_new_lease_tidies_up_what_dead_ones_left(root):
    for _ in range(3):
        lease = Lease(root, [root / "prepared-x" / "a"])
        kept = sorted(file.suffix for file in (root / ".in-use").iterdir())
        assert kept == [".json", ".lock", ".lock"]  # one lease, and that of the folder
        del lease


def refused(path, **_options):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_file_system_without_locks_is_told(root, monkeypatch):
    def lacking(_file, _operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", lacking)
    with pytest.raises(InputError, match=r"cannot lock files: set dataset\.cache to another folder"):
        Lease(root, [])


def test_the_locks_of_another_user(root, monkeypatch):
    monkeypatch.setattr(cache_room, "FileLock", refused)
    with pytest.raises(InputError, match=r"all\.lock is another user's and .* dataset\.cache"):
        Lease(root, [root / "prepared-x" / "a"])


def test_cases_that_another_user_prepared(random_cases, tmp_path, monkeypatch):
    cases = random_cases(2)
    prepared = PreparedCache(tmp_path / "cache", Preprocessing(), ["MRI"], {"background": 0, "body": 1, "core": 5})
    prepared.fill(cases)
    monkeypatch.setattr("os.utime", refused)
    monkeypatch.setattr(cache, "prepare", refused)
    prepared.fill(cases)
