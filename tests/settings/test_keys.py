"""Every key of the config reaches what it configures.

The keys come from the schema. For each key, `keys.KEYS` holds a second value and what must change with it; a key
without an entry fails. A key that is not part of a run's id must change none of the run's numbers.
"""

import functools
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from ddpm.config.files import load_config
from ddpm.config.run import Config, is_bookkeeping
from ddpm.config.sections import Section
from tests.once import apart
from tests.settings import observe
from tests.settings.keys import KEYS, Elsewhere, Seen
from tests.settings.observe import Observe

ROOT = Path(__file__).parents[2]
# A run takes a third of a second. Dropout is on. A sampler makes only two network calls.
BASE = (
    *("--data.subset=100", "--data.batch_size=4", "--train.total_steps=4", "--logging.log_every_n_steps=2"),
    *("--model.base_channels=4", "--model.gn_groups=4", "--model.time_embedding=8", "--model.dropout=0.1"),
    *("--curvature.enabled=false", "--curvature.probes=2", "--eval.reference_n=80", "--checkpoint.every=2"),
    *("--eval.grid.enabled=false", "--eval.grid.every=2", "--eval.grid.nfe=2", "--eval.grid.n_samples=4"),
    *("--eval.fid_milestone.enabled=false", "--eval.fid_milestone.every=2", "--eval.fid_milestone.nfe=2"),
    *("--eval.final.enabled=false", "--eval.final.nfe=2", "--eval.final.n_samples=80"),
    *("--eval.recon.enabled=false", "--eval.recon.every=2", "--eval.recon.n_samples=4", "--eval.recon.bins=2"),
    *("--eval.recon.t_values=[10,500]", "--eval.accept_sampler_error=[ddpm,ddpm_large,ddim]"),
    *("--logging.wandb.mode=disabled", "--device=cpu"),
)


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the schema, in dotted form, with its type."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


LEAVES = dict(_leaves(Config))
# A key with only one possible value chooses nothing.
CHOICES = [key for key, kind in LEAVES.items() if not (get_origin(kind) is Literal and len(get_args(kind)) == 1)]


class World:
    """The folders of one test run, and what was observed in them."""

    def __init__(self, root: Path):
        self.root = root
        self.names = {"pictures": observe.pictures(root / "pictures"), "here": root / "here", "net": root / "net.pt"}
        self.names["bad"] = observe.pictures(root / "bad")
        (root / "bad/train/class0/broken.png").write_bytes(b"no image")
        torch.jit.script(torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())).save(str(root / "net.pt"))

    def config(self, *settings: str) -> Config:
        flags = [f"--out_dir={self.root / 'runs'}", *BASE, *settings]
        return load_config(ROOT / "configs/smoke/e5.yaml", [flag.format(**self.names) for flag in flags])

    @functools.cache  # noqa: B019 - one world per module
    def seen(self, by: Observe, *settings: str) -> Any:
        return by(self.config(*settings))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("settings"))


@pytest.fixture
def world(shared: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """All tests of this module cache in one folder."""
    apart(monkeypatch, shared.root)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return shared


def test_every_key_has_an_entry() -> None:
    """Catches a schema key without a test, and an entry whose key no longer exists."""
    assert set(KEYS) == set(CHOICES)


def _groups() -> dict[tuple[str, ...], list[str]]:
    """The keys grouped by shared settings, so that the run without them is observed once."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for key, entry in KEYS.items():
        if isinstance(entry, Seen):
            groups.setdefault(entry.given, []).append(key)
    # Many keys need no settings. They are split into parts, so that processes share them.
    alone = groups.pop(())
    return groups | {(): alone[::3], ("--seed=1077",): alone[1::3], ("--device=cpu",): alone[2::3]}


@pytest.mark.parametrize(
    ("given", "keys"), _groups().items(), ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_keys_reach_what_they_configure(
    given: tuple[str, ...], keys: list[str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a key that is read but not used: what should follow from it does not change."""
    if "cache_dir" in keys:
        monkeypatch.delenv("DDPM_CACHE")
    unmoved = []
    for key in keys:
        entry = KEYS[key]
        assert isinstance(entry, Seen)
        set_to = f"--{key}={entry.value}"
        assert world.config(*given) != world.config(*given, set_to), f"{key}: the second value is the first one"
        for by in entry.by:
            if world.seen(by, *given) == world.seen(by, *given, set_to):
                unmoved.append(f"{key}: {by.__name__} is as it was")
    assert not unmoved


def test_the_tests_that_hold_the_other_keys_are_there() -> None:
    """Catches a renamed or removed test that leaves its key untested."""
    for key, entry in KEYS.items():
        if isinstance(entry, Elsewhere):
            file, name = entry.test.split("::")
            module = import_module(f"tests.{file.removesuffix('.py').replace('/', '.')}")
            assert key.rsplit(".", 1)[-1] in inspect.getsource(module), f"{entry.test} says nothing of {key}"
            assert callable(getattr(module, name))


def test_a_runs_id_counts_what_its_numbers_depend_on(world: World) -> None:
    """Catches a key that changes numbers but not the id, so that two runs share a folder, and a bookkeeping key that
    would make a run start over."""
    for key, entry in KEYS.items():
        if isinstance(entry, Seen) and key not in ("id", "experiment"):
            ids = {world.config(*entry.given, *more).run_id for more in ((), (f"--{key}={entry.value}",))}
            assert len(ids) == (1 if is_bookkeeping(key) else 2), key


def test_bookkeeping_changes_no_number(world: World) -> None:
    """Sets all bookkeeping keys at once to their second values. Catches one that changes a random stream or a
    weight."""
    measured = ["--curvature.enabled=true", "--eval.fid_milestone.enabled=true", "--eval.grid.enabled=true"]
    kept = {key: entry for key, entry in KEYS.items() if is_bookkeeping(key) and isinstance(entry, Seen)}
    others = {key: entry.value for key, entry in kept.items() if key not in ("device", "logging.wandb.mode")}
    flags = [f"--{key}={value}" for key, value in others.items()]
    assert len(flags) > 10
    assert world.seen(observe.numbers, *measured) == world.seen(observe.numbers, *measured, *flags)


@pytest.mark.parametrize("by", [observe.weights, observe.scores, observe.trace, observe.grid, observe.recon])
def test_what_is_observed_is_the_same_twice(by: Observe, world: World) -> None:
    """Otherwise every key would seem to change it."""
    flags = ["--curvature.enabled=true", "--eval.fid_milestone.enabled=true", "--eval.grid.enabled=true"]
    cfg = world.config(*flags, "--eval.recon.enabled=true")
    assert by(cfg) == by(cfg)
