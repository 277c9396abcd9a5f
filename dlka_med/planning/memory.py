"""How much memory a training step takes, estimated by walking through it without computing anything."""

import weakref
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dlka_med import machine
from dlka_med.config.schema import RunConfig
from dlka_med.losses import PyramidLoss
from dlka_med.ops.layout import channels_last
from dlka_med.planning.choice import Budget
from dlka_med.run_folder import build_run_network

PROCESS = 0.72 * 2**30  # Python, torch, compiled kernels and what else a training needs before its first step
FILES = 0.4 * 2**30  # of libraries, as far as they are read, which processes share
HEAP = 1.3  # bytes that the process holds per byte of its tensors: oneDNN's own, and gaps
WALKED = 2**19  # voxels of a batch; what is larger is scaled up from a smaller one, since layers work in small parts
STATES = {"adamw": 2, "sgd": 1}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FREE_SHARE = 0.8  # of what is free now

aten = torch.ops.aten


def estimated_peak(config: RunConfig, device: str) -> float:
    """Bytes that one training step holds at its peak: on a CPU of the whole process without the files of its libraries,
    on other devices of tensors.

    The step runs on tensors without content, whose sizes are added up for as long as they live.

    Args:
        config: with channels and labels.
    """
    held, training = activations(config, device), config.training
    copies = 1 + STATES[training.optimizer.name] + (training.ema is not None)
    held += copies * sum(tensor.nbytes for tensor in build_run_network(config, pretrained=False).state_dict().values())
    return PROCESS + HEAP * held if device == "cpu" else held


def activations(config: RunConfig, device: str, *, training: bool = True) -> float:
    """Bytes of the tensors that a training step, or the prediction of a window, makes and holds at its peak.

    Args:
        config: with channels and labels.
    """
    small, ratio = _smaller(config)
    network = build_run_network(small, pretrained=False).to(device).train(training)
    asked, batch = config.training, config.training.batch_size if training else 1
    mode = FakeTensorMode()
    _empty(network, mode)
    with mode, Ledger() as ledger, torch.set_grad_enabled(training):
        shape = (batch, len(config.dataset.channels or ()), *small.training.patch_size)
        image, label = torch.empty(shape, device=device), torch.empty((shape[0], 1, *shape[2:]), dtype=torch.uint8)
        dtype = AUTOCAST.get(asked.precision)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
            if not training:
                network(image)
                return ratio * ledger.peak
            criterion = PyramidLoss.of(asked.loss, config.dataset.scheme, network.scale_strides)
            loss = criterion(network.forward_pyramid(channels_last(image)), label.to(device))
        loss.backward()
    return ratio * ledger.peak


def _smaller(config: RunConfig) -> tuple[RunConfig, float]:
    """The same with a window small enough to walk through quickly, and how many times larger the given one is."""
    training = config.training
    size = list(training.patch_size)
    while prod(size) * training.batch_size > WALKED and max(size) > 32:
        longest = size.index(max(size))
        size[longest] = 32 * -(-size[longest] // 64)  # a multiple of what the networks pad to
    smaller = training.model_copy(update={"patch_size": tuple(size)})
    return config.model_copy(update={"training": smaller}), prod(training.patch_size) / prod(size)


def case_bytes(voxels: float, outputs: int, channels: int, size: Sequence[float], patch: Sequence[int]) -> float:
    """Bytes of a process that predicts a case: its image, twice while it is prepared, and the sums of logits in a band
    as thick as a window, of the axis along which that is least.

    Args:
        voxels: of the case.
        size: of a usual case, S; of a volume that is seen slice by slice, three numbers for two of the patch.
    """
    thickness = patch if len(patch) == len(size) else (1,) * len(size)
    band = min(min(thick / whole, 1.0) for thick, whole in zip(thickness, size, strict=True))
    return PROCESS + 4 * voxels * (2 * channels + band * (outputs + 1))


def free_memory(device: str) -> float:
    """Bytes that a training may take of what is free now, with a margin."""
    if torch.device(device).type == "cuda":
        return FREE_SHARE * torch.cuda.mem_get_info(torch.device(device))[0]
    return FREE_SHARE * machine.free_memory()


def kept_free(budget: Budget, workers: int) -> float:
    """Bytes of a training beside its steps: files of libraries, Lightning and the loaders; on a GPU its context and
    what lies fallow.
    """
    return 2**30 if budget.on_gpu else FILES + (0.15 + 0.4 * workers) * 2**30


class Ledger(TorchDispatchMode):
    """Adds up the tensors that are made while it is active, and forgets those that are gone.

    Attributes:
        held, peak: bytes, now and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()
        self._ranges: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return self._value(args[0])
        if func is aten.mkldnn_convolution.default:
            x, weight, bias, padding, stride, dilation, groups = args
            func, args = aten.convolution.default, (x, weight, bias, stride, padding, dilation, False, [0], groups)
        answer = func(*args, **kwargs or {})
        for tensor in tree_iter(answer):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        if func is aten.arange.start:
            self._ranges[answer.untyped_storage()._cdata] = args[0]
        return answer

    def _value(self, number: Tensor) -> float:
        """What a tensor without content answers to `item`; MONAI's losses ask a range for its numbers."""
        start = self._ranges.get(number.untyped_storage()._cdata)
        if start is not None:
            return start + number.storage_offset()
        return 1.0 if number.is_floating_point() else 0

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._ranges.pop(key, None)
        self.held -= size


def _empty(network: nn.Module, mode: FakeTensorMode) -> None:
    """Take the content from the network's tensors."""
    for part in network.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                part._parameters[name] = nn.Parameter(mode.from_tensor(tensor.detach()), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = mode.from_tensor(tensor)
