"""The embedded image set: ten kinds of shapes, drawn from a seed, so everything runs without a download.

Each image is one large anti-aliased shape of random size, position and rotation, in a shade of its class's hue, on a
grey gradient. A small network learns this within minutes, and a person sees at a glance whether it did.
"""

import math

import torch
from torch import Tensor

CLASSES = ("disc", "ring", "square", "triangle", "cross", "star", "heart", "crescent", "bars", "drop")
SIZE = 32
CHUNK = 1000
_PAINTED = 50


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    """Signed distance (max norm) to an axis-parallel box; negative inside. Also below: distances in shape units."""
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _polygon(x: Tensor, y: Tensor, sides: int, radius: float) -> Tensor:
    turn = 2 * math.pi / sides
    angle = torch.remainder(torch.atan2(x, -y) + turn / 2, turn) - turn / 2
    return torch.hypot(x, y) * angle.cos() - radius * math.cos(turn / 2)


def _star(x: Tensor, y: Tensor) -> Tensor:
    turn = 2 * math.pi / 5
    angle = (torch.remainder(torch.atan2(x, -y) + turn / 2, turn) - turn / 2).abs()
    r = torch.hypot(x, y)
    # One edge of the star, from its tip (angle 0, radius 1) to its notch (angle turn / 2, radius 0.45).
    notch_x, notch_y = 0.45 * math.sin(turn / 2), 0.45 * math.cos(turn / 2)
    edge_x, edge_y = notch_x, notch_y - 1
    px, py = r * angle.sin(), r * angle.cos() - 1
    return (edge_x * py - edge_y * px) / math.hypot(edge_x, edge_y)


def _diamond(x: Tensor, y: Tensor, radius: float) -> Tensor:
    """A square standing on its corner, `radius` from centre to sides."""
    return (x.abs() + y.abs()) / math.sqrt(2) - radius


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square standing on its corner and a disc on each upper side."""
    return torch.minimum(_diamond(x, y, 0.5), torch.hypot(x.abs() - 0.354, y + 0.354) - 0.5)


def _drop(x: Tensor, y: Tensor) -> Tensor:
    """A disc and the upper half of the square, standing on its corner, that touches it."""
    return torch.minimum(torch.hypot(x, y) - 0.6, torch.maximum(_diamond(x, y, 0.6), y + 0.6 / math.sqrt(2)))


def signed_distance(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Approximate signed distance from (x, y) to the edge of a shape with radius 1; negative inside. y points down."""
    r = torch.hypot(x, y)
    match kind:
        case "disc":
            return r - 0.85
        case "ring":
            return (r - 0.72).abs() - 0.2
        case "square":
            return _box(x, y, 0.75, 0.75)
        case "triangle":
            return _polygon(x, y - 0.15, 3, 1.1)
        case "cross":
            return torch.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95))
        case "star":
            return _star(x, y)
        case "heart":
            return _heart(1.1 * x, 1.1 * (y - 0.05))
        case "crescent":
            return torch.maximum(r - 0.9, 0.72 - torch.hypot(x - 0.45, y))
        case "bars":
            return torch.maximum(_box(x, y, 0.85, 0.85), (torch.remainder(x + 0.85, 0.68) - 0.17).abs() - 0.17)
        case "drop":
            return _drop(x, y - 0.15)
    raise ValueError(f"no shape named {kind!r}")


def _hsv_to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """(n, 3) RGB in [0, 1] from hue, saturation and value in [0, 1]."""
    k = torch.remainder(torch.tensor([5, 3, 1]) + 6 * h[:, None], 6)
    return v[:, None] * (1 - s[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _render(labels: Tensor, rng: torch.Generator, count: int) -> Tensor:
    """(count, 3, SIZE, SIZE) uint8 images of the first `count` of `labels` (n,); random parameters are drawn for all n.

    In float64: sines and roots differ in their last bits between processors. In float32 that would round one level in
    a million differently and change the images' digest.
    """
    n = len(labels)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=rng).double()

    # Each class has its own hue on grey: learned within minutes, and easy for a person to check.
    radius, angle = uniform(0.75, 0.88), uniform(-0.12, 0.12)
    centre_x, centre_y = uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    hue, turn = labels.double() / len(CLASSES) + uniform(-0.04, 0.04), uniform(0, 2 * math.pi)
    front = _hsv_to_rgb(hue, uniform(0.7, 1.0), uniform(0.8, 1.0))
    dark, light = uniform(0.42, 0.5), uniform(0.5, 0.58)
    looks = (labels, radius, angle, centre_x, centre_y, turn, front, dark, light)
    # In small parts, so that intermediate results stay in the processor's cache.
    parts = zip(*(look[:count].split(_PAINTED) for look in looks), strict=True)
    return torch.cat([_paint(*part) for part in parts])


def _paint(
    labels: Tensor,
    radius: Tensor,
    angle: Tensor,
    centre_x: Tensor,
    centre_y: Tensor,
    turn: Tensor,
    front: Tensor,
    dark: Tensor,
    light: Tensor,
) -> Tensor:
    """(n, 3, SIZE, SIZE) uint8 images; everything is (n,), `front` (n, 3)."""
    axis = (torch.arange(SIZE, dtype=torch.float64) + 0.5) / SIZE * 2 - 1
    py, px = torch.meshgrid(axis, axis, indexing="ij")
    dx, dy = px[None] - centre_x[:, None, None], py[None] - centre_y[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = (cos * dx + sin * dy) / radius[:, None, None], (cos * dy - sin * dx) / radius[:, None, None]
    distance = torch.empty(len(labels), SIZE, SIZE, dtype=torch.float64)
    for index, kind in enumerate(CLASSES):
        chosen = labels == index
        distance[chosen] = signed_distance(kind, x[chosen], y[chosen])
    # The edge is one pixel wide: a pixel is 2 / SIZE of the frame, 2 / SIZE / radius of the shape's unit.
    cover = (0.5 - distance * radius[:, None, None] * SIZE / 2).clamp(0, 1)[:, None]
    slope = 0.5 + 0.5 * (turn.cos()[:, None, None] * px + turn.sin()[:, None, None] * py)
    back = torch.lerp(dark[:, None, None], light[:, None, None], slope.clamp(0, 1))[:, None].expand(-1, 3, -1, -1)
    lit = front[:, :, None, None] * (1 - 0.25 * (py + 1) / 2)  # a little darker downwards
    return (torch.lerp(back, lit, cover) * 255).round().clamp(0, 255).to(torch.uint8)


def render(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n images (n, 3, 32, 32) uint8 and their classes (n,) int64.

    Image i depends only on `seed` and i (drawn in chunks of 1,000), so a larger set begins with the smaller one.
    """
    rng = torch.Generator().manual_seed(seed)
    images, labels = [], []
    for start in range(0, n, CHUNK):
        chunk = torch.randint(len(CLASSES), (CHUNK,), generator=rng)
        images.append(_render(chunk, rng, min(CHUNK, n - start)))
        labels.append(chunk)
    return torch.cat(images), torch.cat(labels)[:n]
