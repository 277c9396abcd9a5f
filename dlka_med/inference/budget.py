"""What predicting a case takes, before it is begun, and how it is kept within a limit."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np
import torch

from dlka_med import machine
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.data.grid import spacing_of
from dlka_med.data.nifti import is_singular
from dlka_med.data.prepare import Prepared, expected_grid
from dlka_med.data.readers import readers_of
from dlka_med.data.resample import keeps_spacing
from dlka_med.errors import InputError
from dlka_med.inference.ensemble import AVERAGED_NUMBERS, COPIES
from dlka_med.inference.grids import match_axes
from dlka_med.inference.memory import free_memory, is_out_of_memory, lacking_memory
from dlka_med.inference.pieces import SLAB_NUMBERS
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import GPU_SHARE, Layout, Load
from dlka_med.inference.writing import MAP

GIB = 2**30
QUICK = 20  # seconds: the first pass also compiles kernels, where no cache holds them
GROWN = 1000  # voxels that resampling makes of one; more tells of a wrong unit
MARGIN = 1.05  # what was measured of one window, and of a process, is a little more in another
FALLOW = 2**26  # bytes that the process comes to hold between its tensors

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Extent:
    """The sizes of a case: voxels of its files, and what the network sees.

    Args:
        prepared: voxels on the network's grid.
        layout: the windows over them.
        resampled: whether they have another spacing than the files.
        writing: bytes per voxel of the files while the label map is changed and written.
        labelled: whether its label is read, and held on both grids.
    """

    channels: int
    native: int
    prepared: int
    layout: Layout
    resampled: bool
    writing: float = MAP
    labelled: bool = False

    @property
    def preparing(self) -> int:
        """Bytes at the peak of reading, turning, resampling and normalising, each of which makes new images."""
        native, prepared = 4 * self.channels * self.native, 4 * self.channels * self.prepared
        between = native + prepared + 8 * max(self.native, self.prepared) if self.resampled else 0
        return max(2 * native, between, 2 * prepared) + self.labels + (self.native if self.labelled else 0)

    @property
    def labels(self) -> int:
        """Bytes of the label on both grids."""
        return self.native + self.prepared if self.labelled else 0

    @property
    def written(self) -> float:
        """Bytes of the label map while it is changed and written."""
        return self.writing * self.native

    @property
    def image(self) -> int:
        """Bytes of the prepared image."""
        return 4 * self.channels * self.prepared

    def deciding(self, outputs: int) -> int:
        """Bytes of the class indices and of what they are decided from."""
        at_once = min(SLAB_NUMBERS, outputs * max(self.native, self.prepared))
        return self.native + (16 * at_once if self.resampled else 0)


@dataclass(frozen=True)
class Learning:
    """What is held of a case on which something is learned, beside its image and its label.

    Args:
        logits: whether all logits of the prepared grid are held.
        after: bytes per voxel of the files, at the peak of what is done when all windows have passed.
        kept: numbers, float32, that stay of every case for each output of the network.
        beside: bytes that stay of every case besides, whatever the outputs.
    """

    logits: bool = False
    after: float = MAP
    kept: int = 0
    beside: int = 0


@dataclass(frozen=True)
class WindowCost:
    """What the forward pass of one window takes, and the process when none is running.

    Args:
        bytes: of the device that the network is on.
        outputs: of the network.
        process: bytes of the machine's memory, those of a GPU left out.
    """

    bytes: float
    seconds: float
    outputs: int
    process: float


def measure_window(predictor: Predictor, channels: int) -> WindowCost:
    """A forward pass of an empty window through each network; a quick one is repeated: the first also prepares kernels.

    Raises:
        InputError: there is no room for it.
    """
    dims, device = len(predictor.patch_size) + (predictor.slices is not None), predictor.device
    affine = np.eye(dims + 1)
    patch = predictor.layout((1,) * dims, affine).patch
    forwards, took, outputs = predictor.window_forwards(affine), 0.0, 0

    def pass_through() -> None:
        nonlocal took, outputs
        started = time.perf_counter()
        for forward in forwards:
            outputs = forward(torch.zeros(1, channels, *patch, device=device)).shape[1]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - started

    try:
        with predictor.evaluating():
            needed = _held_by(pass_through, device)
            if took < QUICK:
                needed = _held_by(pass_through, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"a window of {_shape(patch)} voxels: {lacking_memory(error, device)}") from error
    least = 4 * prod(patch) * (channels + 2 * outputs)  # its logits may be transposed when they are summed
    return WindowCost(max(needed, least), took, outputs, machine.held_memory())


def _held_by(work: Callable[[], None], device: torch.device) -> float:
    """Bytes that `work` holds at its peak, and not afterwards."""
    if device.type != "cuda":
        _, peak = machine.peak_while(work)
        return peak - machine.held_memory()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - held


class Budget:
    """Keeps predictions within a limit of memory.

    `learned`, which is set, is how many cases have been learned on since it was made.

    Args:
        predictor: of a run; one of its windows is measured.
        config: of that run.
        limit: bytes that predicting may hold at its peak, of the machine and of a GPU each; None: what is free.
        beside: bytes per voxel of the files that are held while windows pass, for what is written beside label maps;
            None: nothing is.
        writing: as in `Extent`.
        learning: what is held of labelled cases; None: cases have no labels.

    Raises:
        InputError: there is no room for a window.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: RunConfig,
        limit: float | None = None,
        beside: int | None = None,
        writing: float = MAP,
        *,
        learning: Learning | None = None,
    ):
        self._learning, self.learned = learning, 0
        self._predictor, self._preprocessing = predictor, config.preprocessing
        self._beside, self._writing = beside, writing
        self._channels = len(config.dataset.channels or ())
        self.window = measure_window(predictor, self._channels)
        self.limit = self.window.process + machine.free_memory() if limit is None else limit
        self._gpu, self._told = None, False
        if predictor.device.type == "cuda":
            free = free_memory(predictor.device)
            self._gpu = free if limit is None else min(limit, free)

    def expected(self, case: Case) -> Extent | None:
        """The extent of a case by the header of its first file, as if nothing were cropped; None: it has no usable
        header, which whoever reads the file will tell.
        """
        try:
            grid = readers_of(case)[0].grid(case.images[0])
            if is_singular(grid.affine):
                return None
            shape, affine = expected_grid(grid.shape, grid.affine, self._preprocessing)
            steps = spacing_of(affine)
        except (InputError, ValueError, np.linalg.LinAlgError):
            return None
        wanted = [wish or step for wish, step in zip(self._preprocessing.spacing or steps, steps, strict=True)]
        return self._extent(grid.shape, shape, affine, resampled=not keeps_spacing(steps, wanted))

    def extent(self, prepared: Prepared) -> Extent:
        """The extent of a case that is prepared."""
        shape, native = prepared.image.shape[1:], prepared.native_shape
        axes = match_axes(prepared.affine, prepared.native_affine, shape, native)
        return self._extent(native, shape, prepared.affine, resampled=not all(axis.whole for axis in axes))

    def _extent(self, native: Sequence[int], shape: Sequence[int], affine: np.ndarray, *, resampled: bool) -> Extent:
        layout = self._predictor.layout(shape, affine)
        sizes = self._channels, prod(native), prod(shape)
        return Extent(*sizes, layout, resampled, self._writing, labelled=self._learning is not None)

    def peak(self, extent: Extent, load: Load) -> float:
        """Bytes of the machine's memory at the peak of predicting a prepared case, and of writing it afterwards."""
        on_gpu = self._gpu is not None
        bands = 0 if on_gpu and not load.sums_on_cpu else self._bands(extent)
        windows = 0 if on_gpu else load.windows * self.window.bytes + self._kept(extent)
        predicting = extent.image + bands + windows + self._deciding(extent)
        if self._learning is None:
            return self._at_peak(max(predicting, extent.written))
        logits = 4 * self.window.outputs * extent.prepared if self._learning.logits else 0
        after = extent.image + self._deciding(extent) + self._learning.after * extent.native
        return self._at_peak(max(predicting, after) + logits + extent.labels)

    def load(self, extent: Extent) -> Load:
        """How much of a case is done at once.

        Raises:
            InputError: one window at a time is too much.
        """
        bands = self._bands(extent)
        most = min(self._predictor.batch_size, extent.layout.count)
        window = MARGIN * self.window.bytes
        if self._gpu is None:
            load = Load(1)
            left = self.limit - self.peak(extent, load)
        else:
            load = Load(1, sums_on_cpu=bands > min(GPU_SHARE * self._gpu, self._gpu - window))
            left = self._gpu - window - self._kept(extent) - (0 if load.sums_on_cpu else bands)
            if left < 0:
                self._refuse(window, self._gpu)
        if (needed := self.peak(extent, load)) > self.limit:
            self._refuse(needed, self.limit)
        load.windows = max(1, min(most, 1 + int(left / window)))
        return load

    def check_preparing(self, extent: Extent) -> None:
        """Raise `InputError` if there is no room to read and prepare a case."""
        preparing = self._at_peak(extent.preparing)
        if preparing > self.limit:
            grown = extent.prepared / extent.native
            hint = f"; resampling makes {grown:.0f} voxels of one: is the unit of its header right?"
            self._refuse(max(preparing, self.peak(extent, Load())), self.limit, hint if grown > GROWN else "")

    def beside(self, last: Extent | None, extent: Extent, following: Extent | None) -> tuple[bool, bool]:
        """Whether the last label map may be written, and the following case be prepared, while a case is predicted.

        They get what the windows of the case leave; where that is too little, the log says so once.
        """
        try:
            left = self.limit - self.peak(extent, self.load(extent))
        except InputError:
            return True, True  # it will be refused
        written, prepared = MARGIN * (last.written if last else 0), MARGIN * (following.preparing if following else 0)
        writes = written <= min(left, self.limit - self._at_peak(extent.preparing))
        reads = prepared <= left - (written if writes else 0)
        if not (writes and reads) and not self._told:
            self._told = True
            log.info("memory is short: the network waits while cases are %s", "read" if writes else "read and written")
        return writes, reads

    def seconds(self, extent: Extent) -> float:
        """How long the network takes for a case."""
        return extent.layout.count * self.window.seconds

    def outlook(self, extents: Sequence[Extent], *, overlapping: bool = True) -> str:
        """A sentence about cases to come, in their order.

        Args:
            overlapping: whether the next one is read and the last one written meanwhile, where there is room.
        """
        times, peaks, loads = [self.seconds(extent) for extent in extents], [], []
        for last, extent, following in zip([None, *extents], extents, [*extents[1:], None], strict=False):
            try:
                loads.append(self.load(extent))
            except InputError:
                peaks.append(self.peak(extent, Load(1)))
                continue
            writes, reads = self.beside(last, extent, following) if overlapping else (False, False)
            others = (last.written if last and writes else 0) + (following.preparing if following and reads else 0)
            alone = max(self.peak(extent, loads[-1]), self._at_peak(extent.preparing))
            peaks.append(max(alone, self.peak(extent, loads[-1]) + MARGIN * others))
        at_once = max((load.windows for load in loads), default=1)
        place = self._predictor.device if self._gpu is not None and not any(x.sums_on_cpu for x in loads) else "cpu"
        windows = f"{at_once} window{'s' * (at_once > 1)} of {_shape(extents[0].layout.patch)} voxels"
        return (
            f"expected per case: {_span(times)} s of the network and {_span([peak / GIB for peak in peaks])} GiB of "
            f"memory, with {windows} at once, summed on {place}"
        )

    def _kept(self, extent: Extent) -> float:
        """Bytes of the logits of the empty window."""
        return 4.0 * len(self._predictor.networks) * self.window.outputs * prod(extent.layout.patch)

    def _bands(self, extent: Extent) -> float:
        return len(self._predictor.networks) * extent.layout.band_bytes(self.window.outputs)

    def _deciding(self, extent: Extent) -> float:
        outputs, held = self.window.outputs, (self._beside or 0) * extent.native
        if len(self._predictor.networks) > 1:
            held += 4 * COPIES * max(AVERAGED_NUMBERS, outputs * prod(extent.layout.across))
        resampled = replace(extent, resampled=extent.resampled or self._beside is not None)
        return held + resampled.deciding(outputs)

    def _at_peak(self, held: float) -> float:
        learning = self._learning or Learning()
        kept = (4 * learning.kept * self.window.outputs + learning.beside) * self.learned
        return MARGIN * (self.window.process + kept + held) + FALLOW

    def _refuse(self, needed: float, room: float, hint: str = "") -> None:
        enough = ceil(10 * needed / GIB + 0.5) / 10
        raise InputError(
            f"it needs about {needed / GIB:.2f} GiB of memory, but may take {room / GIB:.2f}: give --memory {enough:g} "
            f"where there is as much, or cut the image to what matters{hint}"
        )


def _span(values: Sequence[float]) -> str:
    least, most = (f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
