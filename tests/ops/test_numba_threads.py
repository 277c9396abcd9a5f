"""Work on the threads of torch, and on a pool of threads where those cannot be had."""

import threading
import time

import pytest
import torch

from dlka_med.ops.backends import numba_threads
from dlka_med.ops.backends.numba_threads import parallel


@pytest.fixture(params=["openmp", "pool"])
def three_threads(request, monkeypatch):
    if request.param == "openmp" and numba_threads.openmp() is None:
        pytest.skip("NOT TESTED: torch has loaded no OpenMP library with GOMP_parallel here")
    monkeypatch.setattr(numba_threads, "forked", request.param == "pool")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_item_once_on_several_threads(three_threads):
    done = []

    def work(item):
        time.sleep(0.002)
        done.append((item, threading.get_ident()))

    parallel(work, range(40))
    assert sorted(item for item, _ in done) == list(range(40))
    assert len({thread for _, thread in done}) == 3
    assert torch.get_num_threads() == 3


def test_results_are_written_to_tensors_of_inference_mode(three_threads):
    with torch.inference_mode():
        tensor = torch.zeros(8)
        parallel(lambda item: tensor[item].add_(item), range(8))
    assert torch.equal(tensor, torch.arange(8.0))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_ends_the_work_and_is_raised(three_threads, error):
    done = []

    def work(item):
        if item == 5:
            raise error
        time.sleep(0.002)
        done.append(item)

    with pytest.raises(error):
        parallel(work, range(1000))
    assert len(done) < 50


def test_one_item_and_one_thread_stay_here(three_threads):
    seen = []
    parallel(lambda _: seen.append(threading.get_ident()), [0])
    torch.set_num_threads(1)
    parallel(lambda _: seen.append(threading.get_ident()), range(5))
    assert set(seen) == {threading.get_ident()}


def test_a_thread_of_the_team_has_its_products_for_itself_and_the_caller_its_threads_back():
    """torch.set_num_threads tells MKL of the calling thread alone, so that others divided a product in another way."""
    share = numba_threads.mkl_threads()
    if share is None or numba_threads.openmp() is None:
        pytest.skip("NOT TESTED: torch has no MKL here, or no OpenMP library with GOMP_parallel")
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        parallel(lambda _: seen.append(share(1)), range(6))
        assert (share(3), seen) == (3, [1] * 6)
    finally:
        torch.set_num_threads(before)
