"""Processes that share folds: what their launcher says, and who holds what."""

import errno
import os
import threading
import time

import pytest
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.rank_zero import _get_rank

from dlka_med.errors import InputError
from dlka_med.shards import claimed, leave_launcher, outlasting

TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"},
    **{"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"},
}
SRUN = {
    **{"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"},
    **{"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"},
}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environment", "shard", "left"),
    [
        (TORCHRUN, (3, 4), {"MASTER_ADDR", "OMP_NUM_THREADS"}),
        (SRUN, (1, 2), {"SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"}),
        (TORCHRUN | SRUN, (3, 4), None),
        (SBATCH, (0, 1), set(SBATCH)),
        ({"HOME": "here"}, (0, 1), {"HOME"}),
    ],
    ids=["torchrun", "srun", "torchrun in srun", "a batch script is one process", "nobody"],
)
def test_a_launcher_says_the_shard_and_is_left(environment, shard, left, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = dict(environment)
    assert leave_launcher(found) == shard
    assert left is None or set(found) == left


@pytest.mark.parametrize(("visible", "own"), [(None, "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_each_process_gets_a_gpu_of_its_own(visible, own, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found = TORCHRUN | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    leave_launcher(found)
    assert found["CUDA_VISIBLE_DEVICES"] == own


def test_lightning_takes_the_process_for_one_that_is_alone(monkeypatch):
    """Else none but the first would make its run folder, and all would wait for each other."""
    for name, value in (TORCHRUN | SRUN).items():
        monkeypatch.setenv(name, value)
    launchers = (TorchElasticEnvironment, SLURMEnvironment)
    assert (_get_rank(), [launcher.detect() for launcher in launchers]) == (3, [True, True])
    assert leave_launcher() == (3, 4)
    assert (_get_rank(), [launcher.detect() for launcher in launchers]) == (None, [False, False])


def test_a_lock_is_held_by_one(tmp_path):
    with claimed(tmp_path / "locks" / "a.lock", wait=False) as first:
        with claimed(tmp_path / "locks" / "a.lock", wait=False) as second:
            assert (first, second) == (True, False)
        with claimed(tmp_path / "locks" / "b.lock", wait=False) as other:
            assert other
    with claimed(tmp_path / "locks" / "a.lock", wait=True) as again:
        assert again


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, code):
    """A file that stands for a lock would keep others out for ever where its process was killed on another machine."""

    def lacking(_file, _operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", lacking)
    told = "Input/output" if code == errno.EIO else f"the file system of {tmp_path} cannot lock files, which keeps two"
    with pytest.raises(OSError if code == errno.EIO else InputError, match=told), claimed(tmp_path / "a", wait=False):
        pass


def test_a_mistake_is_raised_when_the_others_have_ended(tmp_path):
    """Or else a launcher would end them."""
    events, begun = [], threading.Event()

    def other(number):
        with outlasting(tmp_path, (number, 3)):
            events.append("begins")
            if events.count("begins") == 2:
                begun.set()
            time.sleep(0.2 * number)
            events.append("ends")

    threads = [threading.Thread(target=other, args=(number,)) for number in (0, 2)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    with pytest.raises(InputError, match="one case"), outlasting(tmp_path, (1, 3)):
        raise InputError("one case")
    assert events.count("ends") == 2
    for thread in threads:
        thread.join()


def test_two_that_make_mistakes_do_not_wait_for_each_other(tmp_path):
    def fails(number):
        with pytest.raises(InputError), outlasting(tmp_path, (number, 2)):
            raise InputError("one case")

    threads = [threading.Thread(target=fails, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_errors_of_other_kinds_are_raised_at_once(tmp_path):
    with outlasting(tmp_path, (0, 2)), pytest.raises(ZeroDivisionError), outlasting(tmp_path, (1, 2)):
        raise ZeroDivisionError
