"""Held-out cases, predicted by weights that were not trained on them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.inference.budget import GIB, Budget, Learning
from dlka_med.inference.held_out import HeldOut
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import Progress
from dlka_med.machine import peak_memory
from dlka_med.progress import progress, within

T = TypeVar("T")

log = logging.getLogger("dlka_med")


def out_of_fold(
    runs: Sequence[HeldOut],
    device: torch.device,
    work: Callable[[Predictor, Prepared, Case, Progress], T],
    learning: Learning,
    memory: float | None = None,
) -> Iterator[T]:
    """What `work` makes of every held-out case, which is prepared with its label, and the predictor of its run.

    How many windows pass the network at once follows from the memory, as in `predict_images`. The log tells what to
    expect before the first case, and the measured peak after the last.

    Args:
        learning: what `work` holds, and what stays of it.
        memory: GiB that the process may hold at its peak, and of a GPU as much; None: what is free.

    Raises:
        InputError: a case cannot be read, or needs more memory than there is: before any is predicted, as far as the
            headers of all tell.
    """
    show, done, total = progress("predicting"), 0, sum(len(one.cases) for one in runs)
    for one in runs:
        predictor = Predictor.of_config(one.run.load_network(), one.run.config, device=device)
        budget = Budget(predictor, one.run.config, None if memory is None else memory * GIB, learning=learning)
        if one is runs[0]:
            _look_ahead(budget, [case for each in runs for case in each.cases])
        for case in one.cases:
            try:
                prepared = predictor.prepared(case, labelled=True)
                with _named(case):
                    predictor.load = budget.load(budget.extent(prepared))
                yield work(predictor, prepared, case, within(show, done, total))
                del prepared
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise InputError(f"case {case.id}: {lacking_memory(error, predictor.device)}") from error
            done += 1
            budget.learned += 1
            show(done, total)
    log.info("memory of the process at its peak: %.1f GiB", peak_memory() / GIB)


def _look_ahead(budget: Budget, cases: Sequence[Case]) -> None:
    """Tell what the cases need, and refuse the first that needs too much."""
    extents = [(case, extent) for case in cases if (extent := budget.expected(case)) is not None]
    for budget.learned, (case, extent) in enumerate(extents):
        with _named(case):
            budget.check_preparing(extent)
            budget.load(extent)
    budget.learned = 0
    if extents:
        log.info(budget.outlook([extent for _, extent in extents], overlapping=False))


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """The case stands in front of what is said of its memory."""
    try:
        yield
    except InputError as error:
        raise InputError(f"case {case.id}: {error}") from error
