"""A stand-in for the W&B server on loopback, for tests: the unmodified `wandb` client (0.30, 0.31) talks to it.

It answers runs (start, resume, history, summary, config, console, files, alerts), artifacts (versions, aliases,
deduplication, download, deletion), `wandb sync`, sweeps by grid and random search with their agents, reads by
`wandb.Api()`, and the saved views of `wandb-workspaces`. It keeps everything in memory, as plain records that a test
can read. It refuses requests that it does not know, and notes them in `StandIn.unknown`.

A test that passes against it shows that this project and the client understand each other. It does not show what
W&B's own server does: how it validates, authorises, limits rates, delays what it stores, samples histories, exports
them to parquet, searches for the best point of a Bayesian sweep, expires artifacts, moves `latest` when a version is
deleted, or draws anything. If the client's sources leave the server's behaviour open, the stand-in does the simplest
thing.

By hand: `python -m wandb_standin --port 8765` prints the environment that leads a shell to it.
"""

from wandb_standin.records import AlertRecord, ArtifactRecord, RunRecord, ViewRecord
from wandb_standin.server import StandIn
from wandb_standin.sweeps import SweepRecord

__all__ = ["AlertRecord", "ArtifactRecord", "RunRecord", "StandIn", "SweepRecord", "ViewRecord"]
