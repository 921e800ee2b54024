"""The GraphQL types that the wandb client asks for. Each class has W&B's name, and each method answers a field."""

import json
import math
import re
from typing import TYPE_CHECKING, Any

from wandb_standin.base import File, Type, connection, finite, global_id
from wandb_standin.filters import matches, ordered
from wandb_standin.records import ArtifactRecord, RunRecord, ViewRecord
from wandb_standin.sweeps import SweepRecord

if TYPE_CHECKING:
    from wandb_standin.server import StandIn


class Query(Type):
    """The queries."""

    def server_info(self) -> dict[str, Any]:
        """No optional features, so the client uses the plain ways."""
        return {"features": []}

    def viewer(self) -> "User":
        return User(self._server)

    def entity(self, name: str) -> dict[str, Any] | None:
        return {
            "id": global_id("Entity", name),
            "name": name,
            "isTeam": True,
            "organization": None,
            "user": None,
            "xxhashDigestsEnabled": False,
        }

    def project(self, name: str, entity_name: str | None = None) -> "Project | None":
        known = name in self._server.projects and entity_name in (None, "", self._server.entity)
        return Project(self._server, name) if known else None

    model = project

    def models(self, entity_name: str | None = None, after: str | None = None, first: int | None = None) -> Any:
        return connection([Project(self._server, name) for name in self._server.projects], first, after)

    def artifact(self, id: str) -> "Artifact | None":
        record = self._server.artifacts_by_id.get(id)
        return Artifact(self._server, record) if record else None

    def view(self, id: str) -> "View | None":
        return View(self._server, self._server.views[id]) if id in self._server.views else None


class User(Type):
    """The only account."""

    def __init__(self, server: "StandIn"):
        super().__init__(server)
        self.id = global_id("User", "1")
        self.entity = self.username = self.name = server.entity
        self.email = f"{server.entity}@localhost"
        self.photo_url = None
        self.flags = "{}"
        self.admin = False
        self.deleted_at = None
        self.api_keys = connection([])
        self.teams = connection([{"name": server.entity}])


class Project(Type):
    def __init__(self, server: "StandIn", name: str):
        super().__init__(server)
        self.name = name
        self.entity_name = server.entity
        self.id = global_id("Project", "v1", name, server.entity)
        self.internal_id = global_id("ProjectInternalId", str(server.projects.index(name) + 1))
        self.entity = {"id": global_id("Entity", server.entity), "name": server.entity}
        self.created_at = server.started_at
        self.read_only = self.is_benchmark = False
        self.description, self.access, self.views = "", "ENTITY_READ", None
        self.user = User(server)

    def run(self, name: str, missing_ok: bool = True) -> "Run | None":
        record = self._server.runs.get((self.name, name))
        return Run(self._server, record) if record else None

    bucket = run

    def _matching(self, filters: str | None) -> list[RunRecord]:
        return [r for r in self._server.runs_of(self.name) if matches(r, json.loads(filters or "{}"))]

    def run_count(self, filters: str | None = None) -> int:
        return len(self._matching(filters))

    def runs(
        self, filters: str | None = None, after: str | None = None, first: int | None = None, order: str | None = None
    ) -> dict[str, Any]:
        found = ordered(self._matching(filters), order)
        return connection([Run(self._server, r) for r in found], first, after)

    def sweep(self, sweep_name: str) -> "Sweep | None":
        record = self._server.sweeps.get((self.name, sweep_name))
        return Sweep(self._server, record) if record else None

    def artifact_type(self, name: str) -> "ArtifactType":
        return ArtifactType(self._server, self.name, name)

    def artifact_collection(self, name: str) -> "ArtifactSequence | None":
        known = self._server.versions(self.name, name)
        return ArtifactSequence(self._server, self.name, name) if known else None

    def artifact_collection_membership(self, name: str) -> "ArtifactCollectionMembership | None":
        collection, _, alias = name.partition(":")
        return ArtifactSequence(self._server, self.name, collection).artifact_membership(alias or "latest")

    def artifact(self, name: str) -> "Artifact | None":
        found = self.artifact_collection_membership(name)
        return found.artifact if found else None

    def all_views(self, view_type: str, view_name: str | None = None, **page: Any) -> dict[str, Any]:
        views = [v for v in self._server.views.values() if (v.project, v.type) == (self.name, view_type)]
        found = [View(self._server, v) for v in views if view_name in (None, v.name)]
        return connection(found, page.get("first"), page.get("after"))


class Run(Type):
    def __init__(self, server: "StandIn", record: RunRecord):
        super().__init__(server)
        self._record = r = record
        self.id = server.run_id(r)
        self.name, self.display_name = r.id, r.name
        self.group, self.job_type, self.notes, self.description = r.group, r.job_type, r.notes, r.description
        self.tags, self.state, self.sweep_name, self.commit = r.tags, r.state, r.sweep, r.commit
        self.created_at, self.heartbeat_at, self.updated_at = r.created_at, r.heartbeat_at, r.heartbeat_at
        self.read_only = False
        self.user = User(server)
        self.project = Project(server, r.project)
        self.project_id = str(server.projects.index(r.project) + 1)
        self.config = json.dumps(finite(r.raw_config))
        self.summary_metrics = json.dumps(finite(r.summary))
        self.stopped = r.stop
        self.should_stop = r.stop
        self.failed, self.running = r.state == "failed", r.state == "running"
        self.exitcode = r.exit_code

    def wandb_config(self, keys: list[str] | None = None) -> str:
        return json.dumps(self._record.raw_config.get("_wandb", {}).get("value", {}))

    # A resumed run asks for the number of stored rows and for the last ones.
    def history_line_count(self) -> int:
        return len(self._record.streams.get("wandb-history.jsonl", []))

    def events_line_count(self) -> int:
        return len(self._record.streams.get("wandb-events.jsonl", []))

    def log_line_count(self) -> int:
        return len(self._record.streams.get("output.log", []))

    def history_tail(self) -> str:
        return json.dumps(self._record.streams.get("wandb-history.jsonl", [])[-1:])

    def events_tail(self) -> str:
        return json.dumps(self._record.streams.get("wandb-events.jsonl", [])[-1:])

    def system_metrics(self) -> str:
        return (self._record.streams.get("wandb-events.jsonl") or ["{}"])[-1]

    def history_keys(self) -> dict[str, Any]:
        rows = self._record.history
        counts: dict[str, int] = {}
        for row in rows:
            for key in row:
                counts[key] = counts.get(key, 0) + 1
        keys = {k: {"typeCounts": [{"type": "number", "count": n}], "monotonic": False} for k, n in counts.items()}
        return {"keys": keys, "sets": [], "lastStep": rows[-1]["_step"] if rows else -1}

    def _rows(self, low: int, high: float) -> list[dict[str, Any]]:
        return [finite(row) for row in self._record.history if low <= row["_step"] <= high]

    def history(self, min_step: int = 0, max_step: float = math.inf, samples: int | None = None) -> list[str]:
        """Rows with min_step <= _step < max_step, each as JSON."""
        return [json.dumps(row) for row in self._rows(min_step, max_step - 1)[:samples]]

    def sampled_history(self, specs: list[str] | str) -> list[list[dict[str, Any]]]:
        """For each spec, the rows that have all its keys, thinned evenly to `samples`; its maxStep is inclusive."""
        return [self._sampled(json.loads(spec)) for spec in ([specs] if isinstance(specs, str) else specs)]

    def _sampled(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        keys = spec.get("keys") or []
        high = spec.get("maxStep")
        rows = self._rows(spec.get("minStep") or 0, math.inf if high is None else high)
        rows = [{k: row[k] for k in keys or row} for row in rows if set(keys) <= set(row)]
        samples = spec.get("samples") or len(rows)
        return rows if len(rows) <= samples else [rows[i * len(rows) // samples] for i in range(samples)]

    def parquet_history(self, live_keys: list[str]) -> dict[str, Any]:
        """All rows are live: the stand-in exports none to parquet files."""
        return {"parquetUrls": [], "liveData": [finite(row) for row in self._record.history]}

    def log_lines(self, first: int | None = None, last: int | None = None, after: str | None = None, **_: Any) -> Any:
        lines = [
            {"number": i, "line": line, "level": None, "label": None, "timestamp": None}
            for i, line in enumerate(self._record.console)
        ]
        return connection(lines if last is None else lines[-last:], first, after)

    def file_count(self) -> int:
        return len(self._record.files)

    def files(
        self,
        names: list[str] | None = None,
        after: str | None = None,
        first: int | None = None,
        pattern: str | None = None,  # of SQL's LIKE
        **_: Any,
    ) -> dict[str, Any]:
        like = re.compile(re.escape(pattern or "%").replace("%", ".*"))
        found = [n for n in self._record.files if (not names or n in names) and like.fullmatch(n)]
        path = f"runs/{self._record.project}/{self._record.id}"
        return connection([File(self._server, n, f"{path}/{n}", self._record.files[n]) for n in found], first, after)

    def output_artifacts(self, after: str | None = None, first: int | None = None) -> dict[str, Any]:
        logged = [a for a in self._server.artifacts if (a.project, a.run) == (self._record.project, self._record.id)]
        return connection([Artifact(self._server, a) for a in logged], first, after)

    def input_artifacts(self, after: str | None = None, first: int | None = None) -> dict[str, Any]:
        used = [self._server.artifacts_by_id[i] for i in self._record.used_artifacts]
        return connection([Artifact(self._server, a) for a in used], first, after)


class ArtifactCollection(Type):
    """The versions with one name."""

    def __init__(self, server: "StandIn", project: str, name: str):
        super().__init__(server)
        self._project = project
        self.name = name
        self.id = global_id("ArtifactCollection", project, name)
        self.project = Project(server, project)
        self.description = None
        self.created_at = self.updated_at = server.started_at
        self.tags = connection([])
        self.digest_algorithm = "MANIFEST_MD5"
        self.state = "READY"

    def _versions(self) -> list[ArtifactRecord]:
        return self._server.versions(self._project, self.name)

    def default_artifact_type(self) -> "ArtifactType":
        return ArtifactType(self._server, self._project, self._versions()[0].type)

    def latest_artifact(self) -> "Artifact | None":
        found = [a for a in self._versions() if "latest" in a.aliases]
        return Artifact(self._server, found[0]) if found else None

    def artifacts(
        self, after: str | None = None, first: int | None = None, order: str | None = None, filters: str | None = None
    ) -> dict[str, Any]:
        """The versions, the newest first."""
        found = [Artifact(self._server, a) for a in reversed(self._versions())]
        page = connection(found, first, after)
        for edge in page["edges"]:
            edge["version"] = f"v{edge['node'].version_index}"
        return page

    def artifact_membership(self, alias_name: str) -> "ArtifactCollectionMembership | None":
        for record in self._versions():
            if alias_name in (*record.aliases, f"v{record.version}"):
                return ArtifactCollectionMembership(self._server, record)
        return None


class ArtifactSequence(ArtifactCollection):
    pass


class ArtifactType(Type):
    def __init__(self, server: "StandIn", project: str, name: str):
        super().__init__(server)
        self._project = project
        self.id = global_id("ArtifactType", project, name)
        self.name = name
        self.description = None
        self.created_at = server.started_at

    def artifact_collection(self, name: str) -> ArtifactSequence | None:
        found = [a for a in self._server.versions(self._project, name) if a.type == self.name]
        return ArtifactSequence(self._server, self._project, name) if found else None

    def artifact_collections(self, after: str | None = None, first: int | None = None, **_: Any) -> dict[str, Any]:
        logged = [a for a in self._server.artifacts if (a.project, a.type) == (self._project, self.name)]
        names = sorted({a.collection for a in logged})
        return connection([ArtifactSequence(self._server, self._project, n) for n in names], first, after)


class ArtifactCollectionMembership(Type):
    """A version's place in its collection."""

    def __init__(self, server: "StandIn", record: ArtifactRecord):
        super().__init__(server)
        self._record = record
        self.id = global_id("ArtifactCollectionMembership", record.id)
        self.version_index = record.version
        self.created_at = record.created_at
        self.artifact = Artifact(server, record)
        self.artifact_collection = ArtifactSequence(server, record.project, record.collection)
        self.aliases = self.artifact.aliases

    def files(self, names: list[str] | None = None, after: str | None = None, first: int | None = None) -> Any:
        entries = [(n, e) for n, e in self._record.own_files.items() if not names or n in names]
        found = [
            File(self._server, n, path := self._server.blob_path(e["digest"]), self._server.blobs[path])
            for n, e in entries
        ]
        return connection(found, first, after)


class ArtifactAlias(Type):
    def __init__(self, server: "StandIn", record: ArtifactRecord, alias: str):
        super().__init__(server)
        self.id = global_id("ArtifactAlias", record.id, alias)
        self.alias = alias
        self.artifact_collection = ArtifactSequence(server, record.project, record.collection)


class Artifact(Type):
    """One version of a collection."""

    def __init__(self, server: "StandIn", record: ArtifactRecord):
        super().__init__(server)
        self._record = r = record
        self.id, self.state, self.digest, self.description = r.id, r.state, r.digest, r.description
        self.version_index, self.metadata = r.version, json.dumps(r.metadata)
        self.artifact_sequence = ArtifactSequence(server, r.project, r.collection)
        self.artifact_type = ArtifactType(server, r.project, r.type)
        self.ttl_duration_seconds, self.ttl_is_inherited = -2, True  # no time to live is set
        self.tags = [{"__typename": "Tag", "id": global_id("Tag", t), "name": t} for t in r.tags]
        self.history_step = self.commit_hash = None
        self.size = sum(entry.get("size", 0) for entry in r.files.values())
        self.file_count = len(r.files)
        self.digest_algorithm = "MANIFEST_MD5"
        self.created_at, self.updated_at = r.created_at, r.updated_at
        self.aliases = [ArtifactAlias(server, r, a) for a in r.aliases]

    def current_manifest(self) -> dict[str, Any]:
        path = f"manifests/{self.id}"
        return {"id": path, "file": File(self._server, "manifest", path, self._server.blobs[path])}

    def created_by(self) -> Run | None:
        run = self._server.runs.get((self._record.project, self._record.run or ""))
        return Run(self._server, run) if run else None

    def used_by(self) -> dict[str, Any]:
        using = [r for r in self._server.runs.values() if self.id in r.used_artifacts]
        return connection([Run(self._server, r) for r in using])


class Sweep(Type):
    def __init__(self, server: "StandIn", record: SweepRecord):
        super().__init__(server)
        self._record = r = record
        self.id = global_id("Sweep", "v1", r.id, r.project, r.entity)
        self.name, self.state, self.config, self.display_name = r.id, r.state, r.text, r.display_name
        self.method, self.description = r.config["method"], r.config.get("description")
        self.created_at = self.updated_at = self.heartbeat_at = r.created_at
        self.run_count, self.run_count_expected = len(r.runs), r.expected
        self.best_loss = self.controller = self.scheduler = self.controller_run_name = None
        self.early_stop_job_running = False
        self.project = Project(server, r.project)

    def runs(self, first: int | None = None, after: str | None = None, **_: Any) -> dict[str, Any]:
        mine = [r for r in self._server.runs_of(self._record.project) if r.sweep == self._record.id]
        return connection([Run(self._server, r) for r in mine], first, after)


class View(Type):
    """A saved workspace or report."""

    def __init__(self, server: "StandIn", record: ViewRecord):
        super().__init__(server)
        self.id, self.name, self.type, self.display_name = record.id, record.name, record.type, record.display_name
        self.description, self.spec = record.description, json.dumps(record.spec)
        self.created_at, self.updated_at = record.created_at, record.updated_at
        self.project = Project(server, record.project)
        self.user = User(server)
