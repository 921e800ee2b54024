"""Trains the embedded feature net: `python -m ddpm.evaluation.train_embedded_features FOLDER_OR_ZIP`.

Two tasks at once, on natural images (class folders; CIFAR-10 for the shipped weights) and on the embedded shapes: the
image's class, and how much noise and blur was added to it. The second task makes the features sensitive to the faults
of an early DDPM's samples. About ten minutes on two cores.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from ddpm.arguments import path
from ddpm.data.batches import Batches
from ddpm.data.images import load_images, to_model
from ddpm.evaluation.embedded_features import DIM, WEIGHTS, EmbeddedFeatures

BATCH, LEARNING_RATE, SEED = 128, 2e-3, 0
EMBEDDED_IMAGES = 10_000


def degrade(x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (B, 3, H, W) with noise added to a third and another third blurred; and (B, 2) levels in [0, 1]."""
    kind = torch.randint(3, (len(x),), generator=rng)
    level = torch.rand(len(x), generator=rng)
    noise = level * (kind == 1)
    x = x + noise[:, None, None, None] * torch.randn(x.shape, generator=rng)
    sharp = level * (kind == 2)
    blurred = gaussian_blur(x, [7, 7], [1.5, 1.5])
    return torch.lerp(x, blurred, sharp[:, None, None, None]), torch.stack([noise, sharp], 1)


def train(source: Path, epochs: int) -> EmbeddedFeatures:
    """Train on the images of `source` and the embedded set; prints the test accuracy of each epoch."""
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    natural, shapes = load_images("folder", source), load_images("embedded", subset=EMBEDDED_IMAGES)
    tests = [
        load_images("folder", source, split="test", subset=2000),
        load_images("embedded", split="test", subset=2000),
    ]
    images = torch.cat([natural.images, shapes.images])
    labels = torch.cat([natural.labels, shapes.labels + len(natural.classes)])
    classes = len(natural.classes) + len(shapes.classes)

    net, head = EmbeddedFeatures(), nn.Linear(DIM, classes + 2)
    parameters = [*net.parameters(), *head.parameters()]
    steps = epochs * len(images) // BATCH
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    batches = Batches(images, BATCH, SEED)
    for step in tqdm(range(1, steps + 1), disable=None):
        chosen = batches.next_indices()
        x = to_model(images[chosen])
        flip = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
        x, levels = degrade(torch.where(flip, x.flip(3), x), rng)
        out = head(F.relu(net(x)))
        loss = F.cross_entropy(out[:, :classes], labels[chosen], label_smoothing=0.1)
        loss = loss + 5 * F.mse_loss(out[:, classes:], levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % (len(images) // BATCH) == 0:
            offsets = [0, len(natural.classes)]
            scores = [_accuracy(net, head, s.images, s.labels + o) for s, o in zip(tests, offsets, strict=True)]
            print(
                f"step {step}: loss {loss:.3f}, test accuracy natural {scores[0]:.3f}, shapes {scores[1]:.3f}",
                flush=True,
            )
    return net.eval()


@torch.no_grad()
def _accuracy(net: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    guess = head(F.relu(net(to_model(images))))[:, :-2].argmax(1)
    net.train()
    return (guess == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded feature net and write its weights.")
    parser.add_argument("source", type=path, help="class folders under train/ and test/, or a .zip of them")
    parser.add_argument("--epochs", type=int, default=3, help="the shipped weights took 3")
    parser.add_argument("--out", type=path, default=Path(__file__).with_name(WEIGHTS))
    args = parser.parse_args()
    net = train(args.source, args.epochs)
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
