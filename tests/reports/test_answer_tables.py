"""The tables beside the answers, on runs whose numbers are known."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from reports.experiments import load
from reports.runs import Later, Run
from reports.studies.min_snr.answer_tables import (
    LATE_CHAIN,
    agreement,
    along_training,
    arm_rows,
    judge_table,
    judged_twice,
    late_chain_rows,
    late_chain_words,
    lowest,
    variance_rows,
)


def a_run(arm: str, seed: int, later: tuple[Later, ...] = (), **columns: list[float]) -> Run:
    names = {"fid": "val/fid", "common": "curvature/ref_trace_mean", "loss": "train/loss", "x0": "val/recon_mse_t0900"}
    history = pd.DataFrame({names[key]: values for key, values in columns.items()}, index=[2000, 4000, 6000, 10_000])
    config = {"loss": {"weighting": "minsnr"}, "diffusion": {"prediction": "v", "beta_schedule": "cosine"}}
    return Run(f"{arm}-{seed}", arm, seed, config, history.rename_axis("step"), Path(), later=later)


def test_an_arm_is_a_row_of_means_over_its_seeds() -> None:
    """Catches a first milestone that is the first row, a late mean of the whole run, a lowest FID at the end, and a
    mean of fewer seeds that does not say so."""
    flat = [1.0, 1.0, 1.0, 1.0]
    runs = [
        a_run("e6_v", 1, fid=[40.0, 20.0, 30.0, 35.0], common=[9.0, 9.0, 4.0, 2.0], loss=flat, x0=[0.5, 0.4, 0.3, 0.2]),
        a_run("e6_v", 2, fid=[44.0, 30.0, 20.0, 45.0], common=[9.0, 9.0, 6.0, 8.0], loss=flat),
    ]
    (row,) = arm_rows(runs)
    assert (row["arm"], row["seeds"], row["prediction"], row["weighting"], row["betas"]) == (
        *("e6_v", 2, "v", "minsnr"),
        "cosine",
    )
    assert (row["first"], row["last"], row["lowest"]) == ("42.0", "40.0", "4k and 6k")
    assert (row["common"], row["x0"], row["excess"]) == ("5.00", "0.200 (1)", "–")
    assert lowest([]) == "no step"


PROTOCOL = {"features": "own", "sampler": "ddpm", "nfe": 50}


def test_trace_and_fid_along_a_run() -> None:
    """Catches a correlation over the runs' ends, seeds that are averaged first, a row without an FID, predictions that
    are mixed, and an answer that is not that of the signs."""
    flat, down = [1.0, 1.0, 1.0, 1.0], [9.0, 7.0, 5.0, 3.0]

    def ran(seed: int, prediction: str, fid: list[float], common: list[float] = down) -> Run:
        run = a_run("e5", seed, common=common, fid=fid)
        return replace(run, config={"diffusion": {"prediction": prediction}})

    worse = [ran(1, "eps", [1.0, 2.0, 3.0, 4.0]), ran(2, "eps", [1.0, 2.0, 4.0, 3.0]), ran(3, "x0", down, flat)]
    better = ran(4, "v", [8.0, float("nan"), 6.0, 4.0])
    said = along_training([*worse, better])
    assert said.startswith("Not by itself.")
    assert "FID is -1.00 to -0.80 with eps (runs: 2), +1.00 with v (runs: 1): above 0," in said
    assert along_training(worse).startswith("In these runs it means worse ones.")
    assert along_training([better]).startswith("In these runs it does.")
    assert along_training([ran(5, "x0", down, flat)]) == ""


def score(metric: str, features: str, value: float, noise: int = 0, step: int = 10_000, n: int = 500) -> Later:
    protocol = {"features": features, "sampler": "ddim", "nfe": 20, "n_samples": n}
    return Later(step, f"evaluate/{metric}", f"{features}{noise}{n}", value, protocol=protocol, noise=noise)


def test_two_judges_on_the_last_checkpoints() -> None:
    """Catches a score of another step, noise or number of samples, a run that one judge alone scored, and an order of
    arms that is that of single runs."""
    flat = [1.0, 1.0, 1.0, 1.0]

    def scored(arm: str, seed: int, ours: float, theirs: float) -> Run:
        more = score("fid", "net", 1.0, noise=3), score("fid", "net", 1.0, step=2000), score("fid", "own", 1.0, n=9)
        return a_run(arm, seed, (score("fid", "own", ours), score("fid", "net", theirs), *more), loss=flat)

    alone = a_run("e6", 2, (score("fid", "own", 3.0),), loss=flat)
    runs = [scored("e5", 1, 10.0, 100.0), scored("e5", 2, 14.0, 300.0), scored("e6", 1, 13.0, 150.0), alone]
    found = judged_twice(runs)
    names, rows = judge_table(found)
    assert names == ["FID by net", "FID by own"]
    assert rows == [("e5 1", ["100", "10.0"]), ("e5 2", ["300", "14.0"]), ("e6 1", ["150", "13.0"])]
    (line,) = agreement(found)  # means: e5 has 12 and 200, e6 13 and 150
    assert line == (
        "FID: the judges' rank correlation over 3 checkpoints is +1.00; they order 1 of 1 pairs of arms differently: "
        "e5 and e6."
    )
    assert agreement(judged_twice([alone])) == []


def test_spread_over_seeds_and_over_noise() -> None:
    """e5 has FIDs of 10 and 14, e6 of 12, 12 and 15: within arms, squares of 8 + 6 with 1 + 2 degrees of freedom. A run
    of each was sampled again from noise 1 and 2, and from one more: 1, 3, 2 and 4, 8, 6, squares of 2 + 8. Catches a
    spread between arms, the runs' own noise among the others, and a noise that two runs share counted twice."""
    flat, own = [1.0, 1.0, 1.0, 1.0], {"protocols": {"a": PROTOCOL}, "fingerprints": {"val/fid": "a"}}

    def trained(arm: str, seed: int, fid: float, *again: tuple[int, float]) -> Run:
        later = tuple(Later(10_000, "evaluate/fid", "", v, protocol=PROTOCOL, noise=k) for k, v in ((0, 9.0), *again))
        return replace(a_run(arm, seed, later, fid=[*flat[:3], fid], loss=flat), **own)

    runs = [
        trained("e5", 1, 10.0, (1, 1.0), (2, 3.0), (3, 2.0)),
        trained("e5", 2, 14.0),
        *(trained("e6", 1, 12.0, (1, 4.0), (2, 8.0), (4, 6.0)), trained("e6", 2, 12.0), trained("e6", 3, 15.0)),
    ]
    e5, e6, both = variance_rows(runs)
    assert (e5["arm"], e6["arm"]) == ("e5", "e6")
    assert [row["seeds"].split(" ")[0] for row in (e5, e6, both)] == ["2.83", "1.73", "2.16"]
    assert [row["noise"].split(" ")[0] for row in (e5, e6, both)] == ["1.00", "2.00", "1.58"]
    assert [row["noise"].split("; ")[1] for row in (e5, e6, both)] == ["2)", "2)", "3)"]  # four noises in all
    low, high = (float(end) for end in both["seeds"].split("(")[1].split(";")[0].split(" to "))
    squares = 8 + 6
    assert low == pytest.approx((squares / stats.chi2.ppf(0.975, 3)) ** 0.5, rel=0.005)
    assert high == pytest.approx((squares / stats.chi2.ppf(0.025, 3)) ** 0.5, rel=0.005)
    assert variance_rows([trained("e5", 1, 10.0), trained("e5", 2, 14.0)]) == []


def test_a_chain_that_begins_later_is_a_row_below_the_runs_own() -> None:
    """Catches scores of other noise or of another start, a step that is filled from its neighbour, and runs without
    such scores."""
    flat, own = [1.0, 1.0, 1.0, 1.0], {"protocols": {"a": PROTOCOL}, "fingerprints": {"val/fid": "a"}}

    def scored(step: int, value: float, start: int = 699, noise: int = 0) -> Later:
        return Later(step, "evaluate/fid", "", value, protocol=PROTOCOL | {"t_start": start}, noise=noise)

    runs = []
    for seed, later in ((1, (scored(10_000, 20.0), scored(2000, 25.0))), (2, (scored(10_000, 22.0),)), (3, ())):
        others = scored(4000, 1.0, start=500), scored(6000, 1.0, noise=1)
        run = a_run("e5", seed, (*others, *later), fid=[30.0, 33.0, 36.0, 40.0 + seed], loss=flat)
        runs.append(replace(run, config={"diffusion": {"T": 1000}}, **own))
    assert load("prediction").criteria[-1].checks[0].protocol == LATE_CHAIN
    steps, rows = late_chain_rows(runs)
    assert steps == ["2k", "10k"]
    assert [(row["run"], row["start"], row["fids"]) for row in rows] == [
        ("e5 1", 999, ["30.0", "41.0"]),
        ("", 699, ["25.0", "20.0"]),
        ("e5 2", 999, ["30.0", "42.0"]),
        ("", 699, ["–", "22.0"]),
    ]
    assert late_chain_rows(runs[2:]) == ([], [])
    assert late_chain_words(runs) == "25.0 at 2k and 20.0 at 10k (seeds: 1)"  # the others were scored at one step
    assert late_chain_words(runs[1:]) == "not measured at several steps"
