"""`ddpm doctor` says what is there and what is missing, shows no key, and changes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm.commands import cli, doctor
from ddpm.evaluation import features
from ddpm.evaluation.features import INCEPTION_FILE


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_it_finds_what_is_there_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty machine can run the demo. What is missing is listed with advice, and no file is made. A file with other
    content than clean-fid's is told from the published one by its digest. Data that was put in place is found."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    lines = _lines(capsys)
    (at,) = [i for i, line in enumerate(lines) if "weights of inception," in line]
    assert lines[at].startswith("missing") and INCEPTION_FILE in lines[at + 1] and "features=embedded" in lines[at + 1]
    assert sum(line.startswith("ok") for line in lines) > 8 and not any("MISSING" in line for line in lines)
    assert not list(tmp_path.iterdir())

    path = tmp_path / "ddpm-cache" / INCEPTION_FILE
    path.parent.mkdir()
    path.write_bytes(b"weights")
    (tmp_path / "data/cifar-10-batches-py").mkdir(parents=True)
    assert cli.main(["doctor"]) == 0
    lines = _lines(capsys)
    assert any("is another file (SHA-256 " in line and line.startswith("missing") for line in lines)
    assert any(line.startswith("ok") and "cifar-10-batches-py" in line for line in lines)
    monkeypatch.setitem(features.PUBLISHED, INCEPTION_FILE, features.file_digest(path)[:16])
    assert cli.main(["doctor"]) == 0
    assert any(line.startswith("ok") and "as published (SHA-256 " in line for line in _lines(capsys))


def test_no_key_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The login is named and the key is not. A key that W&B's client refuses is not shown either, and does not count as
    a login."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret" * 3)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "W&B login: online (logged in at http://127.0.0.1:9)" in out and "secret" not in out
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "missing  W&B login: W&B's client refuses the login" in out and "secret" not in out


@pytest.mark.parametrize("fault", ["disk", "package"])
def test_what_the_demo_needs_ends_with_1(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, or a torchvision from another build, is named, with the exit code that scripts read. Catches a
    traceback, and a doctor that says all is well."""
    monkeypatch.chdir(tmp_path)
    if fault == "disk":
        monkeypatch.setattr(doctor, "ROOM", 2**60)
    else:
        monkeypatch.setattr("torchvision.ops.nms", lambda *_: (_ for _ in ()).throw(RuntimeError("no operator nms")))
    assert cli.main(["doctor"]) == 1
    lines = _lines(capsys)
    named = "room in this folder" if fault == "disk" else "torch and torchvision together"
    assert any(line.startswith("MISSING") and named in line for line in lines)
    assert lines[-1] == f"The demo cannot run: {named}."


@pytest.mark.parametrize("fault", ["raise OSError('libtorch.so is no ELF file')", "import torch_is_not_installed"])
def test_a_torch_that_cannot_be_imported_is_a_finding(fault: str, tmp_path: Path) -> None:
    """Run in a process that has not imported torch: every line is there with advice, and the exit code is 1. Catches a
    traceback in the one command that should say what is wrong."""
    (tmp_path / "torch.py").write_text(fault)
    path = os.pathsep.join([str(tmp_path), str(Path(doctor.__file__).parents[1])])
    command = [sys.executable, "-m", "ddpm", "doctor"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (at,) = [i for i, line in enumerate(done.stdout.splitlines()) if line.startswith("MISSING  torch:")]
    assert "make clean setup" in done.stdout.splitlines()[at + 1]
    for what in (
        "device",
        "cache folder",
        "weights of",
        "eval.reference_stats",
        "CIFAR-10",
        "room in the cache folder",
    ):
        assert f"  {what}" in done.stdout, what
    assert done.stdout.splitlines()[-1].startswith("The demo cannot run: torch, ")


def test_what_must_not_be_read_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights, the cache and the data belong to another user: they are named, and the demo can run. Catches a
    traceback at the first of them."""
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "ddpm-cache" / INCEPTION_FILE
    weights.parent.mkdir()
    weights.touch()
    exists = Path.exists

    def forbid(path: Path, **how: bool) -> bool:
        if path.name.startswith("cifar-10"):
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **how)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", forbid)
    monkeypatch.setattr(features, "file_digest", refuse)
    assert cli.main(["doctor"]) == 0
    lines = _lines(capsys)
    assert sum("Permission denied" in line and line.startswith("missing") for line in lines) == 2
    assert f"         -> Make {weights} readable" in lines
