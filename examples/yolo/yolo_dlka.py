"""A YOLO detector with D-LKA in its neck: build it from the YAML file beside, detect, train a few steps.

Needs the extra `yolo`. Ultralytics is AGPL-3.0; this example and `dlka_med.export.yolo` are all that touches it.
Nothing is downloaded, and its settings go to a temporary folder unless YOLO_CONFIG_DIR says where.
"""

import os
import tempfile
from pathlib import Path

import torch

from dlka_med.blocks import C3_DCNv3_DLKA
from dlka_med.export.yolo import register_ultralytics

MODEL = Path(__file__).with_suffix(".yaml")
STEPS = 5


def random_batch(images: int, size: int, classes: int) -> dict[str, torch.Tensor]:
    """Noise with a bright box in each image, as Ultralytics wants it: boxes are centre and size, relative."""
    boxes = torch.cat([0.3 + 0.4 * torch.rand(images, 2), 0.2 + 0.3 * torch.rand(images, 2)], 1)
    pictures = 0.2 * torch.rand(images, 3, size, size)
    for picture, (x, y, width, height) in zip(pictures, (size * boxes).tolist(), strict=True):
        picture[:, int(y - height / 2) : int(y + height / 2), int(x - width / 2) : int(x + width / 2)] += 0.8
    labels = torch.randint(classes, (images, 1)).float()
    return {"img": pictures, "bboxes": boxes, "cls": labels, "batch_idx": torch.arange(images)}


def main() -> None:
    """Print what was built, and the loss of each training step."""
    torch.manual_seed(0)
    register_ultralytics()
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    model = DetectionModel(yaml_model_load(MODEL), verbose=False)
    model.args = get_cfg()
    blocks = [row.i for row in model.model if isinstance(row, C3_DCNv3_DLKA)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.2f} million parameters, C3_DCNv3_DLKA in rows {blocks}")

    batch = random_batch(images=2, size=128, classes=model.yaml["nc"])
    with torch.no_grad():
        detections = model.eval()(batch["img"])[0]
    print(f"detections {tuple(detections.shape)}: images, 4 coordinates and {model.yaml['nc']} classes, positions")

    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.001)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(batch)[0].sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print("loss " + " ".join(f"{loss:.2f}" for loss in losses))


if __name__ == "__main__":
    os.environ.setdefault("YOLO_OFFLINE", "true")
    with tempfile.TemporaryDirectory() as settings:
        os.environ.setdefault("YOLO_CONFIG_DIR", settings)
        main()
