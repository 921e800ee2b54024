"""The mutations that the wandb client sends. Each changes the stand-in's records and answers with the change."""

import json
from typing import Any

import yaml

from wandb_standin.base import RefusedError, Type, connection, global_id
from wandb_standin.records import ArtifactRecord, RunRecord, ViewRecord, now
from wandb_standin.schema import Artifact, Run, Sweep, View
from wandb_standin.sweeps import SweepRecord

# Where a run's record keeps the arguments of `upsertBucket`.
RUN_COLUMNS = {
    "display_name": "name",
    "group_name": "group",
    "job_type": "job_type",
    "job_program": "program",
    "notes": "notes",
    "description": "description",
    "tags": "tags",
    "commit": "commit",
    "host": "host",
    "sweep": "sweep",
}


class Mutation(Type):
    """The root type for mutations."""

    def upsert_bucket(
        self,
        id: str | None = None,
        name: str | None = None,
        model_name: str | None = None,
        entity_name: str | None = None,
        config: str | None = None,
        summary_metrics: str | None = None,
        **columns: Any,
    ) -> dict[str, Any]:
        """Make, resume or change a run. A process that writes a run gives its name; an edit gives its id."""
        record = self._server.run_by_id(id) if id else None
        if record is None:
            project = model_name or "uncategorized"
            self._server.add_project(project, entity_name)
            record = self._server.runs.get((project, name or ""))
        inserted = record is None
        if record is None:
            record = RunRecord(self._server.entity, project, name or self._server.new_id())
            record.crashed_after = self._server.crashed_after
            self._server.runs[project, record.id] = record
        if config is not None:
            record.raw_config = json.loads(config)
        if summary_metrics is not None:
            record.summary = json.loads(summary_metrics)
        for column, value in columns.items():
            if value is not None and column in RUN_COLUMNS:
                setattr(record, RUN_COLUMNS[column], value)
        record.name = record.name or record.id
        return {"bucket": Run(self._server, record), "inserted": inserted}

    def delete_run(self, id: str, **_: Any) -> dict[str, Any]:
        record = self._server.run_by_id(id)
        del self._server.runs[record.project, record.id]
        return {"clientMutationId": None}

    def create_run_files(self, entity_name: str, project_name: str, run_name: str, files: list[str]) -> dict[str, Any]:
        record = self._server.runs[project_name, run_name]
        places = [
            {"name": f, "uploadUrl": self._server.storage_url(f"runs/{project_name}/{run_name}/{f}")} for f in files
        ]
        return {"runID": self._server.run_id(record), "uploadHeaders": [], "files": places}

    def notify_scriptable_run_alert(
        self, project_name: str, run_name: str, title: str, text: str, severity: str = "INFO", **_: Any
    ) -> dict[str, Any]:
        self._server.alert(project_name, run_name, title, text, severity)
        return {"success": True}

    # Artifacts are made as pending, then filled, then committed.
    def create_artifact(
        self,
        artifact_type_name: str,
        project_name: str,
        digest: str,
        artifact_collection_name: str,
        run_name: str | None = None,
        client_id: str | None = None,
        description: str | None = None,
        metadata: str | None = None,
        aliases: list[dict[str, str]] | None = None,
        tags: list[dict[str, str]] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Make a new version, or return the version that already has this digest. The aliases move to it."""
        collection = artifact_collection_name
        self._server.add_project(project_name)
        versions = self._server.versions(project_name, collection, with_pending=True)
        if versions and versions[0].type != artifact_type_name:
            raise RefusedError(f"artifact collection {collection} is of type {versions[0].type}")
        record = next((a for a in versions if a.digest == digest and a.state == "COMMITTED"), None)
        if record is None:
            record = ArtifactRecord(
                global_id("Artifact", self._server.new_id()),
                project_name,
                collection,
                artifact_type_name,
                digest,
                run_name,
            )
            record.client_id, record.description = client_id, description
            record.metadata = json.loads(metadata or "{}") or {}
            record.version = max((a.version for a in self._server.ever(project_name, collection)), default=-1) + 1
            record.tags = [t["tagName"] for t in tags or []]
            self._server.artifacts_by_id[record.id] = record
        self._server.give_aliases(record, [a["alias"] for a in aliases or []])
        return {"artifact": Artifact(self._server, record)}

    def create_artifact_manifest(self, artifact_id: str, digest: str, **_: Any) -> dict[str, Any]:
        """Where to put the manifest. It has its artifact's id, since each artifact has one manifest."""
        place = self._server.storage_url(f"manifests/{artifact_id}")
        file = {"id": artifact_id, "uploadUrl": place, "uploadHeaders": []}
        return {"artifactManifest": {"id": artifact_id, "file": file}}

    def create_artifact_files(self, artifact_files: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        """Where to put each file; no address for bytes that are already stored."""
        nodes = []
        for f in artifact_files:
            path = self._server.blob_path(f["md5"])
            nodes.append(
                {
                    "name": f["name"],
                    "displayName": f["name"],
                    "storagePath": path,
                    "uploadUrl": None if path in self._server.blobs else self._server.storage_url(path),
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": f["artifactID"]},
                }
            )
        return {"files": connection(nodes)}

    def commit_artifact(self, artifact_id: str) -> dict[str, Any]:
        record = self._server.artifacts_by_id[artifact_id]
        record.manifest = json.loads(self._server.blobs[f"manifests/{artifact_id}"])
        places = {name: self._server.blob_path(entry["digest"]) for name, entry in record.own_files.items()}
        missing = [name for name, place in places.items() if place not in self._server.blobs]
        if missing:
            raise RefusedError(f"artifact {record.collection} is committed without {missing}")
        record.state = "COMMITTED"
        self._server.give_aliases(record, record.aliases)
        return {"artifact": Artifact(self._server, record)}

    def update_artifact(
        self,
        artifact_id: str,
        metadata: str | None = None,
        description: str | None = None,
        tags_to_add: list[dict[str, str]] | None = None,
        tags_to_delete: list[dict[str, str]] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        record = self._server.artifacts_by_id[artifact_id]
        if metadata is not None:
            record.metadata = json.loads(metadata)
        if description is not None:
            record.description = description
        gone = [t["tagName"] for t in tags_to_delete or []]
        record.tags = [t for t in record.tags if t not in gone] + [t["tagName"] for t in tags_to_add or []]
        record.updated_at = now()
        return {"artifact": Artifact(self._server, record)}

    def add_aliases(self, artifact_id: str, aliases: list[dict[str, str]]) -> dict[str, Any]:
        self._server.give_aliases(self._server.artifacts_by_id[artifact_id], [a["alias"] for a in aliases])
        return {"success": True}

    def delete_aliases(self, artifact_id: str, aliases: list[dict[str, str]]) -> dict[str, Any]:
        record = self._server.artifacts_by_id[artifact_id]
        record.aliases = [a for a in record.aliases if a not in [gone["alias"] for gone in aliases]]
        return {"success": True}

    def delete_artifact(self, artifact_id: str, delete_aliases: bool = False) -> dict[str, Any]:
        record = self._server.artifacts_by_id[artifact_id]
        if record.aliases and not delete_aliases:
            raise RefusedError(f"cannot delete an artifact that has aliases: {record.aliases}")
        self._server.delete_artifact(record)
        return {"artifact": Artifact(self._server, record)}

    def use_artifact(self, artifact_id: str, project_name: str, run_name: str, **_: Any) -> dict[str, Any]:
        used = self._server.runs[project_name, run_name].used_artifacts
        used.extend([artifact_id] * (artifact_id not in used))
        return {"artifact": Artifact(self._server, self._server.artifacts_by_id[artifact_id])}

    def upsert_sweep(
        self,
        id: str | None = None,
        config: str | None = None,
        entity_name: str | None = None,
        project_name: str | None = None,
        state: str | None = None,
        display_name: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Make a sweep, or change its state."""
        record = self._server.sweep_by_id(id) if id else None
        if record is None:
            project = project_name or "uncategorized"
            self._server.add_project(project, entity_name)
            parsed = yaml.safe_load(config or "")
            record = SweepRecord(self._server.entity, project, self._server.new_id(), parsed, config or "")
            if parsed["method"] not in ("grid", "random"):
                raise RefusedError(f"the stand-in enumerates grid and random sweeps, no {parsed['method']!r}")
            self._server.sweeps[project, record.id] = record
        record.state = state or record.state
        record.display_name = display_name or record.display_name or record.config.get("name")
        return {"sweep": Sweep(self._server, record), "configValidationWarnings": []}

    def create_agent(self, host: str, sweep: str, **_: Any) -> dict[str, Any]:
        return {"agent": {"id": self._server.add_agent(sweep, host)}}

    def agent_heartbeat(self, id: str, run_state: str | None = None, **_: Any) -> dict[str, Any]:
        return {"agent": {"id": id}, "commands": self._server.agent_commands(id, json.loads(run_state or "{}"))}

    def upsert_view(self, id: str | None = None, project_name: str | None = None, **columns: Any) -> dict[str, Any]:
        inserted = id is None
        record = ViewRecord(self._server.new_id(), project_name or "", "", "") if id is None else self._server.views[id]
        self._server.add_project(record.project)
        self._server.views[record.id] = record
        for column in ("name", "type", "display_name", "description"):
            if columns.get(column) is not None:
                setattr(record, column, columns[column])
        if columns.get("spec") is not None:
            record.spec = json.loads(columns["spec"])
        record.updated_at = now()
        return {"view": View(self._server, record), "inserted": inserted}

    def delete_view(self, id: str, **_: Any) -> dict[str, Any]:
        del self._server.views[id]
        return {"success": True, "pendingDrafts": []}
