"""Two runs' curvature, draw by draw."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ddpm.commands.cli import main
from ddpm.errors import UserError
from reports.studies.probe_pairs import _change, over_seeds, pair, read


def _write(path: Path, trained: list[list[float]], common: list[list[float]], **design: Any) -> Path:
    curvature = {"draws": "fixed", "per_draw": 1, "probes": 4, "seed": 0} | design
    lines = [
        {
            **{
                "_i": 100 * (i + 1),
                "run_id": f"{path.stem}-s7",
                "experiment": path.stem,
                "seed": 7,
                "images": "abc",
                "curvature": curvature,
            },
            "details": {"curvature/hutch_values": trained[i], "curvature/ref_values": common[i]},
        }
        for i in range(len(trained))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_common_part_of_the_draws_falls_out(tmp_path: Path) -> None:
    """If the draws scatter in proportion in both runs, the quotient has no error. A part that only the variant has
    gives an error. Catches means that are compared in place of pairs, and an interval that narrows with more steps."""
    base = [[100.0, 300.0, 200.0, 400.0]] * 2
    trained = [[1.1 * b for b in row] for row in base]
    common = [[1.1 * b + d for b, d in zip(row, (10, -10, 10, -10), strict=True)] for row in base]
    a = read(_write(tmp_path / "e5.jsonl", base, base))
    table = pair(a, read(_write(tmp_path / "e6.jsonl", trained, common)))
    assert table["change_pct"].tolist() == pytest.approx([10] * 6)
    own = table[table["loss"] == "hutch"]
    assert (own["high_pct"] - own["low_pct"]).tolist() == pytest.approx([0] * 3, abs=1e-9)
    reach = stats.t.ppf(0.975, 3) * np.std([4, -4, 4, -4], ddof=1) / 2
    other = table[table["loss"] == "ref"]
    assert other["high_pct"].tolist() == pytest.approx([10 + reach] * 3)
    assert other["low_pct"].tolist() == pytest.approx([10 - reach] * 3)
    assert other["step"].tolist() == [100, 200, 0]


def test_intervals_hold_the_quotient_as_often_as_they_say() -> None:
    """In 400 pairs of 16 draws, the variant is the baseline plus a constant, or half of it. The interval holds the
    truth in 92 to 98 of 100. Catches an interval that treats the baseline's mean as exact, which held 42 times."""
    rng = np.random.default_rng(0)
    for scale, shift in ((1.0, 10.0), (0.5, 0.0)):
        held = 0
        truth = 100 * ((scale * 100 + shift) / 100 - 1)
        for _ in range(400):
            a = rng.normal(100, 20, 16)
            b = scale * a + shift + rng.normal(0, 1, 16)
            change, low, high = _change(a, b)
            assert low < change < high
            held += low < truth < high
        assert 0.92 <= held / 400 <= 0.98, (scale, shift, held)


def test_vectors_of_one_draw_are_no_further_draws(tmp_path: Path) -> None:
    """Two vectors on each of two draws give an interval from two values. Catches four values that count as
    independent."""
    a = read(_write(tmp_path / "e5.jsonl", [[10.0, 10, 10, 10]], [[10.0, 10, 10, 10]], per_draw=2))
    b = read(_write(tmp_path / "e6.jsonl", [[11.0, 13, 12, 16]], [[11.0, 13, 12, 16]], per_draw=2))
    row = pair(a, b).iloc[0]
    assert row["interval_over"] == "2 draws"
    assert row["high_pct"] - row["change_pct"] == pytest.approx(stats.t.ppf(0.975, 1) * 10)


def test_seeds_are_what_the_last_interval_is_over(tmp_path: Path) -> None:
    """10 % and 30 % give 20, with Student's interval over the two seeds. One seed has none."""
    a = read(_write(tmp_path / "e5.jsonl", [[10.0] * 4], [[10.0] * 4]))
    tables = [pair(a, read(_write(tmp_path / "e6.jsonl", [[x] * 4], [[x] * 4]))) for x in (11.0, 13.0)]
    (both,) = over_seeds(tables)
    assert both["change_pct"].tolist() == pytest.approx([20] * 4)
    assert (both["high_pct"] - 20).tolist() == pytest.approx([stats.t.ppf(0.975, 1) * 10] * 4)
    assert over_seeds(tables[:1]) == []


def test_probes_that_have_no_draws_in_common_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed of the draws, other steps, the study's scheme and another kind of file are refused. The command ends
    with exit code 2 and writes nothing."""
    values = [[1.0, 2, 3, 4]]
    a = _write(tmp_path / "e5.jsonl", values, values)
    other = read(_write(tmp_path / "e6.jsonl", values, values, seed=1))
    with pytest.raises(UserError, match="different draws"):
        pair(read(a), other)
    longer = read(_write(tmp_path / "e7.jsonl", values * 2, values * 2))
    with pytest.raises(UserError, match="different steps"):
        pair(read(a), longer)
    batch = read(_write(tmp_path / "e8.jsonl", values, values, draws="batch"))
    with pytest.raises(UserError, match="share their draws only with"):
        pair(batch, batch)
    (tmp_path / "no.jsonl").write_text("{}\n")
    argv = ["probe-pairs", "--baseline", str(a), "--variant", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "x")]
    assert main(argv) == 2
    assert "is no file of `ddpm probe" in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))


def test_files_of_the_command(tmp_path: Path) -> None:
    """The command writes a table and a figure from two seeds."""
    values = [[10.0, 20, 30, 40], [5.0, 10, 15, 20]]
    a, b = (str(_write(tmp_path / f"{arm}.jsonl", values, values)) for arm in ("e5", "e6"))
    assert main(["probe-pairs", "--baseline", a, a, "--variant", b, b, "--out", str(tmp_path / "o/pairs")]) == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["pairs.csv", "pairs.png", "pairs.svg"]
    assert len((tmp_path / "o/pairs.csv").read_text().splitlines()) == 1 + 3 * 2 * 3


def test_the_table_of_the_curvature_page_is_made_from_its_files(tmp_path: Path) -> None:
    """docs/curvature_e5_e6/pairs.csv follows from the probes beside it, and the page's numbers from that table. Catches
    a number that was typed or is out of date."""
    docs = Path(__file__).parents[2] / "docs"
    a, b = ([str(docs / f"curvature_e5_e6/{arm}-s{seed}.jsonl") for seed in (1077, 1078)] for arm in ("e5", "e6"))
    assert main(["probe-pairs", "--baseline", *a, "--variant", *b, "--out", str(tmp_path / "pairs")]) == 0
    assert (tmp_path / "pairs.csv").read_text() == (docs / "curvature_e5_e6/pairs.csv").read_text()
    table = pd.read_csv(tmp_path / "pairs.csv", dtype={"seed": str}).set_index(["loss", "seed", "step"])
    page = (docs / "curvature.md").read_text()
    for loss, seed, step in itertools.product(("hutch", "ref"), ("1077", "1078"), (0, 3000)):
        row = table.loc[(loss, seed, step)]
        assert f"{row['change_pct']:+.1f} ({row['low_pct']:+.1f} to {row['high_pct']:+.1f})" in page
