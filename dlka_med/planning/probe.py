"""A few real training steps in a process of their own: what they hold and how long they take."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dlka_med.config.schema import RunConfig

MEASURED_STEPS = 2  # after a first one, which compiles; fewer of slow ones
LONG_ENOUGH = 5  # seconds
BUSY = 0.2  # of the processor's time taken by others, from which on the clock tells little
SPEED_UP = 0.8  # power of the number of threads
OUT_OF_MEMORY = ("memory", "MemoryError", "STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Measured:
    """What a step takes; or why there is none.

    Args:
        peak: bytes, on a CPU of the process without the files that it maps, on a GPU of tensors.
        seconds: with the processor to itself.
        waited: share of the time that other programs took from it.
    """

    peak: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    failed: str | None = None


def probe(config: RunConfig, device: str) -> Measured:
    """Train the network of a config for some steps on noise.

    Args:
        config: with channels and labels.

    Raises:
        RuntimeError: the steps failed for another reason than a lack of memory.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else "dlka_med.planning.probe"],
        input=json.dumps({"config": config.model_dump(mode="json"), "device": device}),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    if done.returncode == 0:
        return Measured(**json.loads(done.stdout.splitlines()[-1]))
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == -signal.SIGKILL or any(word in said for word in OUT_OF_MEMORY):
        return Measured(failed=said)
    raise RuntimeError(f"a probe of the planned training failed:\n{done.stderr}")


def measure(config: RunConfig, device: str) -> Measured:
    """The steps themselves, in this process."""
    import torch

    from dlka_med.losses import PyramidLoss
    from dlka_med.ops.layout import channels_last
    from dlka_med.planning.memory import AUTOCAST
    from dlka_med.run_folder import build_run_network

    training, place = config.training, torch.device(device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    network = build_run_network(config, pretrained=False).to(place).train()
    averaged = None if training.ema is None else torch.optim.swa_utils.AveragedModel(network)
    criterion = PyramidLoss.of(training.loss, config.dataset.scheme, network.scale_strides)
    make = torch.optim.AdamW if training.optimizer.name == "adamw" else torch.optim.SGD
    more = {} if training.optimizer.name == "adamw" else {"momentum": training.optimizer.momentum}
    optimizer = make(network.parameters(), lr=1e-4, **more)
    shape = (training.batch_size, len(config.dataset.channels or ()), *training.patch_size)
    image, classes = torch.randn(shape, device=place), len(config.dataset.scheme.values)
    label = torch.randint(classes, (shape[0], 1, *shape[2:]), dtype=torch.uint8, device=place)
    dtype = AUTOCAST.get(training.precision)

    def step() -> None:
        with torch.autocast(place.type, dtype, enabled=dtype is not None):
            loss = criterion(network.forward_pyramid(channels_last(image)), label)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(network)
        loss.item()

    step()
    times: list[float] = []
    ran, waited = _processor_time()
    while len(times) < MEASURED_STEPS and sum(times) < LONG_ENOUGH:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    ran, waited = (after - before for after, before in zip(_processor_time(), (ran, waited), strict=True))
    share, peak, seconds = waited / max(ran + waited, 1e-9), _peak(place), min(times)
    if share > BUSY and place.type == "cpu":
        # Threads that wait for each other suffer from others' work many times over; one thread alone does not.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        step()
        before = time.process_time()
        step()
        seconds = (time.process_time() - before) / threads**SPEED_UP
    return Measured(peak, seconds, share)


def _processor_time() -> tuple[float, float]:
    """Seconds in which the threads of this process ran, and in which they waited for a processor; 0 if not known."""
    rows = []
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            rows.append([1e-9 * int(word) for word in file.read_text().split()[:2]])
        except (OSError, ValueError):
            continue  # the thread has ended
    ran, waited = map(sum, zip(*rows, strict=True)) if rows else (0.0, 0.0)
    return ran, waited


def _peak(device) -> float:
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        # Libraries' files are shared and can be read again; how much of them is there depends on what the system read
        # before. And the maximum that getrusage tells begins with that of the process that made this one.
        status = Path("/proc/self/status").read_text()
        held, files = (1024 * float(status.partition(name)[2].split()[0]) for name in ("VmHWM:", "RssFile:"))
        return held - files
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = measure(RunConfig.model_validate(asked["config"]), asked["device"])
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
