"""What a training run reads: the complete config, the split, the cache and the loader."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import DataLoader

from dlka_med.config.dataset import Dataset as DatasetConfig
from dlka_med.config.loading import save_config
from dlka_med.config.schema import RunConfig
from dlka_med.data.cache import PreparedCache
from dlka_med.data.cases import Case, Dataset, check_dims, read_dataset
from dlka_med.data.intensity import resolve_intensity
from dlka_med.data.loaders import patch_loader
from dlka_med.data.sides import side_note, with_flip_axes
from dlka_med.data.splits import split_cases
from dlka_med.errors import InputError
from dlka_med.progress import progress
from dlka_med.run_folder import RunFolder

log = logging.getLogger("dlka_med")


class RunData(pl.LightningDataModule):
    """The cases of a run; one process makes the run folder and fills the cache, then all open them.

    Args:
        config: as asked for; for a resumed run already that of the folder.
        out: the run folder, to be made unless `resume`.

    Raises:
        InputError: the dataset cannot be used, or lacks a case of the run's split.
    """

    def __init__(self, config: RunConfig, out: Path, resume: bool) -> None:
        super().__init__()
        self.prepare_data_per_node = False
        self.resume = resume
        self.first_epoch = 0
        dataset = read_dataset(
            config.dataset.root,
            channels=config.dataset.channels,
            labels=config.dataset.labels,
            groups=config.dataset.groups,
            grouped=not resume,
        )
        check_dims(dataset.cases, config.image_dims, _expectation(config))
        config = config.model_copy(
            update={"dataset": config.dataset.model_copy(update=_resolved(config.dataset, dataset))}
        )
        if rank_zero_only.rank == 0 and (note := side_note(config)):
            log.info(note)
        self.config = with_flip_axes(config)
        self.run = RunFolder(out)
        self.cases = {case.id: case for case in dataset.cases}
        if resume:
            self.split = self.run.split
        else:
            parts = split_cases(
                dataset,
                config.dataset.folds,
                config.dataset.fold,
                test_cases=config.dataset.test_cases,
            )
            self.split = {"train": parts.train, "validation": parts.validation, "test": parts.test}
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
        if self.resume:
            save_config(config, self.run.config_file)
        else:
            channels, labels = config.dataset.channels or (), config.dataset.labels or {}
            intensity = resolve_intensity(
                self.part("train"),
                config.preprocessing,
                channels,
                labels,
                workers=workers,
                progress=progress("measuring intensities"),
            )
            preprocessing = config.preprocessing.model_copy(update={"intensity": intensity})
            RunFolder.create(self.run.path, config.model_copy(update={"preprocessing": preprocessing}), self.split)
        cases = self.part("train") + self.part("validation")
        self._cache().fill(cases, workers, progress("preparing cases"))

    def setup(self, stage: str) -> None:
        """Open what `prepare_data` made; called in every process."""
        self.cache = self._cache()

    def state_dict(self) -> dict[str, Any]:
        return {"finished_epochs": self.trainer.current_epoch + 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Lightning tells the sampler its epoch only after the workers of a resumed run have drawn from it.
        self.first_epoch = state["finished_epochs"]

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
        )

    def _cache(self) -> PreparedCache:
        config = RunFolder(self.run.path).config
        return PreparedCache(
            self.run.cache_folder,
            config.preprocessing,
            config.dataset.channels or (),
            config.dataset.labels or {},
        )


def _expectation(config: RunConfig) -> str:
    plane = config.dataset.slices
    if config.network.spatial_dims == 3:
        return f"network.name is {config.network.name}, which is trained on"
    if plane is None:
        return "dataset.slices is null (axial, coronal and sagittal cut volumes into slices), which stands for"
    return f"dataset.slices is {plane}, which needs"


def _resolved(config: DatasetConfig, dataset: Dataset) -> dict[str, Any]:
    """What the run has to know of its dataset; files and folders absolute, so that it resumes from anywhere."""
    places = {key: getattr(config, key) for key in ("root", "groups", "cache")}
    absolute = {key: None if place is None else str(Path(place).absolute()) for key, place in places.items()}
    return absolute | {"channels": dataset.channels, "labels": dataset.labels}
