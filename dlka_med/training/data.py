"""What a training run reads: the complete config, the split, the cache and the loader."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import DataLoader

from dlka_med.config.labels import LabelScheme
from dlka_med.config.loading import save_config
from dlka_med.config.schema import RunConfig
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import Case, dataset_of, with_names
from dlka_med.data.channel_files import check_dims
from dlka_med.data.growth import grown
from dlka_med.data.intensity import named_intensity, resolve_intensity, warn_of_outliers
from dlka_med.data.loaders import patch_loader
from dlka_med.data.prepare import Prepared
from dlka_med.data.sides import side_note, with_flip_axes
from dlka_med.data.splits import related_to_test, split_cases
from dlka_med.errors import InputError
from dlka_med.files import user_cache_folder
from dlka_med.progress import progress
from dlka_med.provenance import Provenance
from dlka_med.run_folder import RunFolder
from dlka_med.training.made_on import note_machine, note_reasons
from dlka_med.training.resume import with_absolute_paths

log = logging.getLogger("dlka_med")


class RunData(pl.LightningDataModule):
    """The cases of a run; one process makes the run folder and fills the cache, then all open them.

    Args:
        config: as asked for; for a resumed run already that of the folder.
        out: the run folder, to be made unless `resume`.
        reasons: see `dlka_med.training.train.train`.

    Raises:
        InputError: the dataset cannot be used, or lacks a case of the run's split.
    """

    def __init__(
        self, config: RunConfig, out: Path, resume: bool, reasons: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.reasons = reasons
        self.prepare_data_per_node = False
        self.resume = resume
        self.first_epoch, self.first_progress = 0, 0.0
        renamed = not resume or _same_root(config, RunFolder(out))
        dataset = dataset_of(config.dataset, grouped=not resume, renamed=renamed)
        check_dims(dataset.cases, config.image_dims, _expectation(config))
        config = config.model_copy(update={"dataset": with_names(config.dataset, dataset)})
        config = with_absolute_paths(config)
        if rank_zero_only.rank == 0 and (note := side_note(config)):
            log.info(note)
        self.config = with_flip_axes(config)
        self.run = RunFolder(out)
        self.held_out: list[Case] = []
        self.cases = {case.id: case for case in dataset.cases}
        if resume:
            self.split = self.run.split
        else:
            parts = split_cases(
                dataset,
                config.dataset.folds,
                config.dataset.fold,
                test_cases=config.dataset.test_cases,
                may_leak=config.dataset.folds_may_leak,
            )
            self.split = {"train": parts.train, "validation": parts.validation, "test": parts.test}
            unseen = {*parts.validation, *related_to_test(dataset, config.dataset.test_cases)}
            self.held_out = [case for case in dataset.cases if case.id in unseen]
        for name in (*self.split["train"], *self.split["validation"]):
            if name not in self.cases:
                raise InputError(
                    f"{config.dataset.root} lacks the case {name} of {self.run.split_file}: "
                    "set dataset.root to the folder that this run was started with"
                )

    def part(self, name: str) -> list[Case]:
        """Cases of `train`, `validation` or `test`."""
        return [self.cases[case] for case in self.split[name]]

    def prepare_data(self) -> None:
        """Make the run folder and the cache; called in one process of all."""
        config, workers = self.config, self.config.training.workers
        cases = self.part("train") + self.part("validation")
        if config.dataset.cache is None:
            # Others have no business with patients' images. Whether it can be written to is seen below.
            with suppress(OSError):
                user_cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        # As long as it lives, nobody removes its cases.
        self._filled = self._cache(config)
        log.info("prepared cases are kept in %s", self._filled.root)
        self._filled.fill(cases, workers, progress("preparing cases"))
        check_labels(self._filled, self.part("train"), config.dataset.scheme)
        channels, preprocessing = config.dataset.channels or (), config.preprocessing
        if self.resume:
            save_config(config, self.run.config_file)  # not before: what fails until here has extended nothing
        else:
            measured = [self._filled.measured(case) for case in self.part("train")]
            intensity = resolve_intensity(preprocessing, channels, measured)
            preprocessing = preprocessing.model_copy(update={"intensity": intensity})
            RunFolder.create(self.run.path, config.model_copy(update={"preprocessing": preprocessing}), self.split)
        start = self.run.path if self.run.started else config.training.start_from
        before = Provenance() if start is None else Provenance.of_run(RunFolder.open(start))
        before.joined(self.part("train"), self.part("validation")).save(self.run)
        note_machine(self.run)
        note_reasons(self.run, self.reasons)
        for case in cases:
            intensity = named_intensity(preprocessing, channels)
            warn_of_outliers(case.id, channels, intensity, self._filled.open(case).measured)

    def setup(self, stage: str) -> None:
        """Open what `prepare_data` made; called in every process."""
        self.cache = self._cache(RunFolder(self.run.path).config)
        self.cache.locate(self.part("train") + self.part("validation"))

    def prepared(self, case: str) -> Prepared:
        """A case as the network sees it."""
        return self.cache.get(self.cases[case]).normalised(self.cache.intensity)

    def reference(self, case: str) -> np.ndarray | None:
        """Class indices of a case on the grid of its own files."""
        return self.cache.reference(self.cases[case])

    def is_labelled(self, case: str) -> bool:
        """Whether a case holds any label."""
        return bool(self.cache.open(self.cases[case]).classes)

    def state_dict(self) -> dict[str, Any]:
        task = self.trainer.lightning_module
        return {"finished_epochs": task.row["epoch"], "progress": task.progress}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Lightning tells the sampler its epoch only after the workers of a resumed run have drawn from it.
        self.first_epoch, self.first_progress = state["finished_epochs"], state.get("progress", 0.0)

    def train_dataloader(self) -> DataLoader:
        training = self.config.training
        return patch_loader(
            self.cache,
            self.part("train"),
            patch_size=training.patch_size,
            batch_size=training.batch_size,
            steps=training.steps_per_epoch,
            oversampling=training.foreground_oversampling,
            augmentation=training.augmentation,
            seed=self.config.seed,
            epoch=self.first_epoch,
            workers=training.workers,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            slices=self.config.dataset.slices,
            size_of_epoch=self._size_of_epoch,
        )

    def _size_of_epoch(self) -> tuple[int, ...]:
        """Of the epoch that begins; that of a resumed run's first is asked before the clock knows its progress."""
        training, task = self.config.training, self.trainer.lightning_module
        progress = max(task.progress, self.first_progress)
        return grown(training.patch_size, progress, training.growing, task.network.size_unit)

    @staticmethod
    def _cache(config: RunConfig) -> PreparedCache:
        dataset = config.dataset
        return PreparedCache(
            user_cache_folder() if dataset.cache is None else dataset.cache,
            config.preprocessing,
            dataset.channels or (),
            dataset.scheme,
            slices=dataset.slices,
            gib=dataset.cache_gib,
        )


def check_labels(cache: PreparedCache, cases: Sequence[Case], labels: LabelScheme) -> None:
    """Log a warning with the labels that no case holds.

    Raises:
        InputError: no case holds any.
    """
    held = {index for case in cases for index in cache.open(case).classes}
    if not held:
        raise InputError(
            f"the labels of all {len(cases)} training cases are empty: no voxel is {' or '.join(labels.names)}; "
            "check the label files and dataset.labels"
        )
    if lacking := [name for name, indices in labels.targets.items() if not held & set(indices)]:
        log.warning("no training case holds the label %s: the network cannot learn it", ", ".join(lacking))


def _expectation(config: RunConfig) -> str:
    plane = config.dataset.slices
    if config.network.spatial_dims == 3:
        return f"network.{config.dims_key} is {getattr(config.network, config.dims_key)}, which is trained on"
    if plane is None:
        return "dataset.slices is null (axial, coronal and sagittal cut volumes into slices), which stands for"
    return f"dataset.slices is {plane}, which needs"


def _same_root(config: RunConfig, run: RunFolder) -> bool:
    """Whether a resumed run stays with the dataset whose channels it may have renamed."""
    return Path(config.dataset.root).absolute() == Path(run.config.dataset.root).absolute()
