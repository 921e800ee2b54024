"""What W&B's own client makes of its environment and its settings files: mode, server, login, folders.

The client is asked, so that it and this project cannot differ. This is the only file that uses parts of the client that
are not public; `CLIENT` is the version that they were tried with. wandb is imported when it is asked, not before.
"""

import functools
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ddpm.errors import UserError

CLIENT = "0.31"
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
# Settings of the client that name one run, or add to it. A shell or a folder keeps them for the next run too.
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
    "sweep_id": "the run is not one that a sweep's agent has started",
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
    """The client's settings, as a run that starts now has them. Raises UserError where the client refuses one."""
    import wandb
    from wandb.sdk import wandb_setup

    setup = wandb_setup.singleton()
    try:
        if setup.did_environment_change():  # the client itself reads it once in a process
            setup._load_settings(system_settings_path=None, disable_sagemaker=False)
        return setup.settings
    except (ValueError, wandb.errors.Error) as error:
        setup._settings = None  # else what was read before the fault would count from now on
        raise UserError(_refusal(error)) from None


def _refusal(error: Exception) -> str:
    """What the client has against a setting. The value is left out, as it may be a key; that of a mode is none."""
    first: dict[str, Any] = next(iter(getattr(error, "errors", list)()), {})
    if not first:
        return f"W&B's client refuses its settings: {_one_line(error)}."
    name = _variable(str(first["loc"][0]))
    if name == "WANDB_MODE":
        return f"WANDB_MODE = {first['input']} is not a mode of W&B. Use online, offline or disabled."
    return f"W&B's client refuses {name}: {first['msg']}. Correct it or remove it."


def _variable(setting: str) -> str:
    return _VARIABLES.get(setting, f"WANDB_{setting.upper()}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def failures() -> tuple[type[Exception], ...]:
    """What the client raises if a server does not answer, refuses, or does not have what is asked for."""
    import requests
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError  # it is none of wandb's own errors

    return wandb.errors.Error, WandbApiFailedError, requests.RequestException, ValueError, OSError


# --- mode and login ---


def switched_off(wanted: str) -> str:
    """What says `disabled`, if something does; found without the client. `wanted`: the mode that the config names.

    The client does not know WANDB_DISABLED. It is honoured, since other trainers have taught it.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "WANDB_DISABLED"
    said = os.environ.get("WANDB_MODE")
    if said == "disabled":
        return "WANDB_MODE"
    return "logging.wandb.mode" if said is None and wanted == "disabled" else ""


def asked_mode() -> tuple[str, str]:
    """(mode, what says it) of WANDB_MODE, or else of the client's settings files; ("", "") if neither says one.

    `wandb offline` writes into WANDB_DIR, while a run reads the file of the folder that it starts in: both count here,
    the more private one first. Raises UserError for a mode that a training cannot have.
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
    """How much a mode keeps here, as a rank."""
    return ("online", "offline", "disabled").index(mode)


def _known_mode(mode: str, where: str) -> str:
    if mode not in _MODES:
        raise UserError(f"{where} = {mode}: a training cannot have this mode. Use online, offline or disabled.")
    return _MODES[mode]


def server() -> str:
    """The address of the server that the client would use."""
    return str(settings().base_url)


def server_name() -> str:
    """The server as a folder's name. The addresses that lead to W&B's own cloud have one name."""
    from wandb.sdk.lib import urls

    parts = urlparse(urls.forge_upstream_url(server()))
    return (parts.netloc + parts.path.rstrip("/")).replace(":", "-").replace("/", "-") or "server"


def logged_in() -> bool:
    """Whether the client would find a login for its server without asking for one. Raises UserError where it refuses
    the one that it finds."""
    import wandb
    from wandb.sdk.lib import wbauth

    now = settings()
    try:
        host = wbauth.HostUrl(now.base_url, app_url=now.app_url)
        return wbauth.authenticate_session(host=host, source="ddpm", prompt=False, update_session=False) is not None
    except (ValueError, wandb.errors.Error) as error:
        raise UserError(f"W&B's client refuses the login for {now.base_url}: {_one_line(error)}.") from None


# --- what names a run ---


def agents_run() -> str | None:
    """The id of the run that a sweep's agent has started this process for, if one has. wandb is not needed for it."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def name_run(id: str) -> None:
    """Have the client take what names a run from `wandb.init` alone, or from the agent whose run `id` is.

    What is left aside is said in one line, once in a process.
    """
    now = settings()
    kept = _OF_A_SWEEP if now.sweep_id and now.run_id == id else ()
    aside = [name for name in _OF_ONE_RUN if name not in kept and getattr(now, name)]
    for name in aside:
        setattr(now, name, None)
    if aside:
        _say("; ".join(f"{_variable(name)} ({_OF_ONE_RUN[name]})" for name in aside))


def unnamed() -> dict[str, str]:
    """This process's environment without what names a run: for a command of the client's that knows its run."""
    return {name: value for name, value in os.environ.items() if name not in map(_variable, _OF_ONE_RUN)}


@functools.cache
def _say(what: str) -> None:
    print(f"W&B's own settings that are not used: {what}")


# --- its folder and its process ---


def staging_folder() -> Path:
    """Where the client keeps copies of what it is to upload as artifacts."""
    from wandb import env

    return Path(env.get_data_dir()).expanduser().absolute() / "artifacts" / "staging"


def end_service() -> None:
    """End the client's process, which would wait for its server as long as it takes. What it holds is on disk."""
    from wandb.sdk import wandb_setup

    service = getattr(wandb_setup.singleton().ensure_service(), "_proc", None)
    process = getattr(service, "_process", None)
    if process is not None:
        process.kill()
