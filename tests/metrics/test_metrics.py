"""The table of metrics: single keys, and families with one key for each timestep."""

from ddpm.metrics.table import METRICS, axis_label, markdown_page, metric_of


def test_a_key_of_a_family_is_found_with_its_own_t() -> None:
    """Catches a figure labelled `XXXX`, and a t that is read as octal or cut off."""
    found = metric_of("mse_per_t/mse_t0050")
    assert found and (found.key, found.unit) == ("mse_per_t/mse_t0050", METRICS["mse_per_t/mse_tXXXX"].unit)
    assert axis_label("mse_per_t/mse_t0050") == "eps-MSE at t = 50 (unweighted)"
    assert axis_label("val/recon_psnr_t0000").startswith("reconstruction PSNR at t = 0 (")
    assert metric_of("val/recon_mse_t12345")  # a chain with more than 9999 steps


def test_other_keys_are_what_they_were() -> None:
    """Catches a family that swallows a single key or an unknown one."""
    assert metric_of("val/recon_mse") is METRICS["val/recon_mse"]
    for key in ("val/fid_t0010", "mse_per_t/mse_t10", "nothing"):
        assert metric_of(key) is None
        assert axis_label(key) == key


def test_the_page_has_each_metric_once_in_the_section_of_its_kind() -> None:
    """Catches a metric in no section or in two, and a page that starts with a table."""
    page = markdown_page()
    assert page.startswith("# ") and page.index("loss.jsonl") < page.index("| key |")
    assert all(page.count(f"| `{key}` |") == 1 for key in METRICS)
    of_samples, of_timesteps = (page.index(f"## Evaluation {of}") for of in ("of samples", "at single timesteps"))
    assert of_samples < page.index("| `final/fid` |") < of_timesteps < page.index("| `val/recon_mse` |")
