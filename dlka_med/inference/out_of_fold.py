"""Held-out cases, predicted by weights that were not trained on them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.errors import InputError
from dlka_med.inference.held_out import HeldOut
from dlka_med.inference.memory import is_out_of_memory, lacking_memory
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import Progress
from dlka_med.progress import progress, within

T = TypeVar("T")


def out_of_fold(
    runs: Sequence[HeldOut], device: torch.device, work: Callable[[Predictor, Prepared, Case, Progress], T]
) -> Iterator[T]:
    """What `work` makes of every held-out case, which is prepared with its label, and the predictor of its run.

    Raises:
        InputError: a case cannot be read, or there is not enough memory for it.
    """
    show, done, total = progress("predicting"), 0, sum(len(one.cases) for one in runs)
    for one in runs:
        predictor = Predictor.of_config(one.run.load_network(), one.run.config, device=device)
        for case in one.cases:
            try:
                yield work(predictor, predictor.prepared(case, labelled=True), case, within(show, done, total))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise InputError(f"case {case.id}: {lacking_memory(error, predictor.device)}") from error
            done += 1
            show(done, total)
