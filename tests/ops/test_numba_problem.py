"""How the CPU backend cuts its work: threads, copies, tiles, and gradients that nobody asked for."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dlka_med.ops.backends import numba_cpu, numba_problem, reference

from .cases import Case
from .large import LARGE, assert_close, results, run


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_large_problems_agree_with_the_reference(case):
    tensors = case.tensors(torch.float32)
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)


def test_positions_are_rounded_as_in_the_reference():
    """Just below an integer the order of the sum decides the cell, and with it the gradient of the offset."""
    case = Case((17, 19, 16), (8, 8), padding=6, dilation=6, groups=8)
    tensors = case.tensors(torch.float32, spread=4)
    tensors["offset"] = torch.nextafter(tensors["offset"].round(), torch.tensor(-torch.inf))
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)


@pytest.mark.parametrize("name", ["2d depthwise", "3d dense"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_number_of_threads_changes_no_more_than_rounding(name, batch, threads):
    tensors = LARGE[name].tensors(torch.float32, batch=batch)
    threads(1)
    expected = results(LARGE[name], tensors)
    for number in (2, 3):
        threads(number)
        ours = results(LARGE[name], tensors)
        assert_close(ours, expected, 1e-5)
        assert all(map(torch.equal, ours, results(LARGE[name], tensors)))
        assert torch.get_num_threads() == number


WANTED = [("2d depthwise", "x"), ("2d depthwise", "weight"), ("2d depthwise", "offset"), ("2d depthwise", "bias")]
WANTED += [("2d grouped", "x"), ("2d grouped", "weight"), ("2d grouped", "offset mask"), ("2d grouped", "mask")]


@pytest.mark.parametrize(("name", "wanted"), WANTED)
def test_only_the_gradients_that_are_asked_for_are_computed(name, wanted, monkeypatch):
    case, made, make = LARGE[name], [], numba_problem.Problem.gradients
    tensors = case.tensors(torch.float32)
    monkeypatch.setattr(numba_problem.Problem, "gradients", lambda *a: made.append(make(*a)) or made[-1])
    for key in wanted.split():
        tensors[key].requires_grad_()
    ours, expected = (
        torch.autograd.grad(run(case, tensors, backend).sin().sum(), [tensors[key] for key in wanted.split()])
        for backend in (numba_cpu, reference)
    )
    assert_close(ours, expected, 1e-5)
    computed = {
        key for found in made for key, t in zip(("x", "offset", "weight", "mask"), found, strict=True) if t.numel()
    }
    assert computed == set(wanted.split()) - {"bias"}


@pytest.mark.parametrize(("name", "groups"), [("2d depthwise", 72), ("2d dense", 1), ("2d grouped", 3)])
def test_many_threads_hold_no_more_copies_of_x_than_the_tensors_of_the_call(name, groups, threads, monkeypatch):
    case = dataclasses.replace(LARGE[name], channels=(72, 72), groups=groups)
    tensors = case.tensors(torch.float32, batch=1)
    threads(2)
    expected = results(case, tensors)
    held, parts, backward = set(), set(), numba_problem.Problem.backward

    def spy(problem, grad_y, grad_x, *rest):
        if grad_x is not None:
            held.add(grad_x.data_ptr())
            parts.add((grad_x.data_ptr(), *rest[-2:]))
        backward(problem, grad_y, grad_x, *rest)

    monkeypatch.setattr(numba_problem.Problem, "backward", spy)
    threads(16)
    ours = results(case, tensors)
    numbers = ours[0].numel() + sum(t.numel() for t in tensors.values() if t is not None)
    assert (len(held) - 1) * tensors["x"].numel() <= numbers
    assert len(held) < len(parts) <= 16
    assert_close(ours, expected, 1e-5)
    assert all(map(torch.equal, ours, results(case, tensors)))


def test_memory_for_columns_is_bounded(monkeypatch):
    made, make = [], numba_problem.Problem.new_columns
    monkeypatch.setattr(numba_problem, "TILE_BYTES", 20000)
    monkeypatch.setattr(numba_problem.Problem, "new_columns", lambda *a: made.append(make(*a)) or made[-1])
    case = LARGE["3d dense"]
    tensors = case.tensors(torch.float32)
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)
    assert 10000 < max(columns.nbytes for columns in made) <= 20000


def test_several_python_threads_at_once(threads):
    threads(2)
    problems = [(case, case.tensors(torch.float32)) for case in LARGE.values()] * 2
    expected = [results(*problem) for problem in problems]
    with ThreadPoolExecutor(4) as executor:
        for ours, theirs in zip(executor.map(lambda problem: results(*problem), problems), expected, strict=True):
            assert_close(ours, theirs, 1e-5)


def test_an_image_too_large_for_its_indices_is_refused_by_the_operator_too():
    """A compiled graph asks `why_not` for no size."""
    case = Case((5, 6), (4, 3))
    x, offset = torch.zeros(1).expand(1, 2**13, 2**10, 2**9), torch.zeros(1).expand(1, 18, 2**13, 2**10)
    with pytest.raises(ValueError, match=r"fewer than 2\*\*32 - 1 numbers"):
        numba_problem.Problem(x, offset, None, None, case.geometry)
