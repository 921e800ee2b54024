"""Mode, server, login and folders as W&B's client reads them from the environment and its settings files.

Asking the client itself avoids differences from it. Only this file uses private parts of the client, because they have
no public counterpart; `CLIENTS` are the versions that they were tried with. wandb is imported late.
"""

import functools
import inspect
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ddpm.errors import UserError, one_line

CLIENTS = ("0.30", "0.31")
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
# Settings of the client that name or describe one run, but outlive it in a shell or a folder.
_OF_ONE_RUN = {
    "run_id": "each run has an id of its own",
    "run_name": "logging.wandb.run_name is used",
    "run_group": "a run's group is its experiment",
    "run_job_type": "a training has the job type train",
    "run_tags": "logging.wandb.tags is used",
    "run_notes": "logging.wandb.notes is used",
    "project": "logging.wandb.project is used",
    "resume": "the run folder decides what is continued",
    "resume_from": "the run folder decides what is continued",
    "fork_from": "the run folder decides what is continued",
    "sweep_id": "the run was not started by a sweep's agent",
}
_OF_A_SWEEP = ("run_id", "sweep_id", "project")
_VARIABLES = {
    "run_name": "WANDB_NAME",
    "run_tags": "WANDB_TAGS",
    "run_notes": "WANDB_NOTES",
    "run_job_type": "WANDB_JOB_TYPE",
    "root_dir": "WANDB_DIR",
}


def settings() -> Any:
    """The client's settings for a run that starts now. Raises UserError if the client refuses one."""
    import wandb
    from wandb.sdk import wandb_setup

    setup = wandb_setup.singleton()
    try:
        if setup.did_environment_change():  # the client alone would read it once a process
            setup._load_settings(system_settings_path=None, disable_sagemaker=False)
        return setup.settings
    except (ValueError, wandb.errors.Error) as error:
        setup._settings = None  # otherwise the settings read before the faulty one would stay
        raise UserError(_refusal(error)) from None


def _refusal(error: Exception) -> str:
    """Why the client refuses a setting. The value is left out, because it may be a key; a mode is shown."""
    first: dict[str, Any] = next(iter(getattr(error, "errors", list)()), {})
    if not first:
        return f"W&B's client refuses its settings: {one_line(error)}."
    name = _variable(str(first["loc"][0]))
    if name == "WANDB_MODE":
        return f"WANDB_MODE = {first['input']} is not a mode of W&B. Use online, offline or disabled."
    return f"W&B's client refuses {name}: {first['msg']}. Correct it or remove it."


def _variable(setting: str) -> str:
    return _VARIABLES.get(setting, f"WANDB_{setting.upper()}")


def durable(flush_s: float) -> dict[str, float]:
    """The setting by which the client writes its file to the disk once per `flush_s` seconds. 0.30 has none."""
    import wandb

    name = "x_transaction_log_flush_interval"
    return {name: flush_s} if name in wandb.Settings.model_fields else {}


def failures() -> tuple[type[Exception], ...]:
    """The client's exceptions when a server does not answer, refuses, or lacks what is asked for."""
    import requests
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError  # not a wandb.errors.Error

    return wandb.errors.Error, WandbApiFailedError, requests.RequestException, ValueError, OSError


def api(timeout_s: int = 20) -> Any:
    """The client's public API, for one server."""
    import wandb

    return wandb.Api(timeout=timeout_s)


def not_found(error: Exception) -> bool:
    """Whether one of `failures` says that the server does not have the run."""
    return "not find" in str(error) or "not found" in str(error)


# --- mode and login ---


def switched_off(wanted: str) -> str:
    """The name of the setting that disables W&B, if one does; found without the client. wanted: the config's mode.

    The client does not know WANDB_DISABLED. It counts here because other trainers use it.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "WANDB_DISABLED"
    said = os.environ.get("WANDB_MODE")
    if said == "disabled":
        return "WANDB_MODE"
    return "logging.wandb.mode" if said is None and wanted == "disabled" else ""


def asked_mode() -> tuple[str, str]:
    """(mode, its source) from WANDB_MODE, otherwise from the client's settings files; ("", "") if neither sets one.

    `wandb offline` writes a settings file in WANDB_DIR, while a run reads the one in its working folder. The more
    private mode of both counts. Raises UserError for a mode that a training cannot have.
    """
    now = settings()
    if "WANDB_MODE" in os.environ:
        said = os.environ["WANDB_MODE"]
        return _known_mode(said, "WANDB_MODE"), "WANDB_MODE" if said in _MODES.values() else f"WANDB_MODE={said}"
    files = now.read_system_settings()
    found = [mode for mode in (now.mode if "mode" in now.model_fields_set else None, files.all().get("mode")) if mode]
    where = f"W&B's settings file {' and '.join(map(str, files.sources))}".strip()
    modes = [_known_mode(mode, where) for mode in found]
    return (max(modes, key=private), where) if modes else ("", "")


def private(mode: str) -> int:
    """How private a mode is, as a rank."""
    return ("online", "offline", "disabled").index(mode)


def _known_mode(mode: str, where: str) -> str:
    if mode not in _MODES:
        raise UserError(f"{where} = {mode}: a training cannot have this mode. Use online, offline or disabled.")
    return _MODES[mode]


def server() -> str:
    """The address of the client's server."""
    return str(settings().base_url)


def server_name() -> str:
    """The server as a folder name. All addresses of W&B's own cloud have the same name."""
    from wandb.sdk.lib import urls

    upstream = getattr(urls, "forge_upstream_url", str)  # not in 0.30
    parts = urlparse(upstream(server()))
    return (parts.netloc + parts.path.rstrip("/")).replace(":", "-").replace("/", "-") or "server"


def logged_in() -> bool:
    """Whether the client finds a login for its server without asking for one. Raises UserError if it refuses the one
    that it finds."""
    import wandb
    from wandb.sdk.lib import wbauth

    now = settings()
    try:
        host = wbauth.HostUrl(now.base_url, app_url=now.app_url)
        known = inspect.signature(wbauth.authenticate_session).parameters
        if "update_session" not in known:  # 0.30 would return the login that it found first, whatever it is now
            wbauth.unauthenticate_session(update_settings=False)
        asked: Any = {"update_session": False} if "update_session" in known else {}  # not in 0.30
        return wbauth.authenticate_session(host=host, source="ddpm", prompt=False, **asked) is not None
    except (ValueError, wandb.errors.Error) as error:
        raise UserError(f"W&B's client refuses the login for {now.base_url}: {one_line(error)}.") from None


# --- the run's name ---


def agents_run() -> str | None:
    """The id of the W&B run that a sweep's agent gives this process, if any. Does not import wandb."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def name_run(id: str) -> None:
    """Make the client ignore its settings that name a run, except those of the agent that started the run `id`.

    Prints the ignored settings, once a process.
    """
    now = settings()
    kept = _OF_A_SWEEP if now.sweep_id and now.run_id == id else ()
    ignored = [name for name in _OF_ONE_RUN if name not in kept and getattr(now, name)]
    for name in ignored:
        setattr(now, name, None)
    if ignored:
        _say("; ".join(f"{_variable(name)} ({_OF_ONE_RUN[name]})" for name in ignored))


def unnamed() -> dict[str, str]:
    """This process's environment without the variables that name a run, for `wandb sync`."""
    return {name: value for name, value in os.environ.items() if name not in map(_variable, _OF_ONE_RUN)}


@functools.cache
def _say(what: str) -> None:
    print(f"W&B's own settings that are not used: {what}")


# --- artifacts ---


def add_reference(artifact: Any, name: str, address: str) -> None:
    """Add an entry that names something outside W&B. `Artifact.add_reference` does too, and warns about addresses that
    it does not know."""
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

    entry: Any = {"path": name, "ref": address, "digest": address, "size": 0}
    artifact.manifest.add_entry(ArtifactManifestEntry(**entry))


def artifact_of(table: Any) -> Any:
    """The artifact in which the client has logged a table; None if it does not tell."""
    return getattr(getattr(table, "_artifact_target", None), "artifact", None)


def use_new(run: Any, artifact: Any) -> None:
    """Log an artifact and mark it as used by the run; if an equal one exists, that one is used.

    Publicly the client refuses this offline, although its file can hold it and `wandb sync` uploads it.
    """
    if run.settings.mode == "offline":
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


# --- its folder and its process ---


def staging_folder() -> Path:
    """The folder in which the client keeps copies of artifacts until they are uploaded."""
    from wandb import env

    return Path(env.get_data_dir()).expanduser().absolute() / "artifacts" / "staging"


def end_service() -> None:
    """Kill the client's process, which would wait for its server without end. Its data is on disk."""
    from wandb.sdk import wandb_setup

    service = getattr(wandb_setup.singleton().ensure_service(), "_proc", None)
    process = getattr(service, "_process", None)
    if process is not None:
        process.kill()
