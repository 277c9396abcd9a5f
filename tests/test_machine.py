"""Memory of the machine and of this process."""

import math
import mmap
import time

import pytest

from dlka_med import machine

MIB = 2**20


def test_some_memory_is_free():
    assert MIB < machine.free_memory() < math.inf


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "900", "memory.current": "300"}, 600),
        ({"memory.max": "max", "memory.current": "300"}, math.inf),
        ({"memory/memory.limit_in_bytes": "70", "memory/memory.usage_in_bytes": "30"}, 40),
        (
            {
                "memory.max": "900",
                "memory.current": "800",
                "memory.stat": "anon 90\nfile 710\nshmem 60\ninactive_file 50\nactive_file 600\n",
            },
            750,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "70",
                "memory/memory.usage_in_bytes": "60",
                "memory/memory.stat": "active_file 1\ntotal_inactive_file 5\ntotal_active_file 20\n",
            },
            35,
        ),
        (
            {
                "membership": "0::/job_7/step_0",
                "job_7/memory.max": "500",
                "job_7/memory.current": "300",
                "job_7/step_0/memory.max": "max",
                "job_7/step_0/memory.current": "200",
            },
            200,
        ),
        (
            {
                "membership": "5:cpu,cpuacct:/\n4:memory:/slurm/job_7\n0::/",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "4000",
                "memory/slurm/job_7/memory.limit_in_bytes": "90",
                "memory/slurm/job_7/memory.usage_in_bytes": "30",
                "memory/slurm/job_7/memory.stat": "total_inactive_file 5\n",
            },
            65,
        ),
        ({"membership": "0::/of/another/container", "memory.max": "900", "memory.current": "300"}, 600),
        ({}, math.inf),
    ],
)
def test_the_limits_of_containers_and_jobs_count(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert machine._left_to_container(tmp_path, tmp_path / "membership") == left


def test_what_the_system_says_is_available(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:    64 kB\n")
    assert machine._available(tmp_path / "meminfo") == 64 * 1024
    assert machine._available(tmp_path / "absent") == machine.UNKNOWN


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_held_for_a_while_only_is_seen(sampled, monkeypatch):
    def hold():
        with mmap.mmap(-1, 64 * MIB) as fresh:  # what malloc gives may be held already, freed by others
            fresh.write(b"1" * MIB * 64)
            time.sleep(0.2 if sampled else 0)
            return len(fresh)

    if sampled:
        monkeypatch.setattr(machine, "_start_new_peak", lambda: False)
    before = machine.held_memory()
    answer, peak = machine.peak_while(hold)
    assert answer == 64 * MIB
    assert peak - before > 50 * MIB
    assert machine.held_memory() - before < 50 * MIB
    assert machine.peak_memory() >= peak - MIB


def test_an_earlier_peak_is_not_forgotten():
    with mmap.mmap(-1, 256 * MIB) as fresh:
        fresh.write(bytes(256 * MIB))
    highest = machine.peak_memory()
    _, peak = machine.peak_while(lambda: None)
    assert peak < highest - 100 * MIB
    assert machine.peak_memory() >= highest


def test_an_error_ends_the_watch():
    with pytest.raises(ZeroDivisionError):
        machine.peak_while(lambda: 1 / 0)
