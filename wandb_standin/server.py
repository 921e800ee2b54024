"""The HTTP side: GraphQL, the file stream and file storage, on a loopback port that can fall silent."""

import base64
import gzip
import hashlib
import json
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from wandb_standin import graphql, sweeps
from wandb_standin.base import RefusedError, global_id
from wandb_standin.mutations import Mutation
from wandb_standin.records import AlertRecord, ArtifactRecord, RunRecord, ViewRecord, now
from wandb_standin.schema import Query
from wandb_standin.sweeps import SweepRecord

Answer = tuple[int, bytes]


class StandIn:
    """A W&B server in this process, used as a context manager. Tests can read its records."""

    def __init__(self, port: int = 0, entity: str = "study"):
        self.entity = entity
        self.api_key = "standin0" * 5  # 40 characters, like a W&B key
        self.started_at = now()
        self.crashed_after = 300.0  # seconds of silence after which a running run counts as crashed

        self.projects: list[str] = []
        self.runs: dict[tuple[str, str], RunRecord] = {}
        self.artifacts_by_id: dict[str, ArtifactRecord] = {}
        self.blobs: dict[str, bytes] = {}  # what was uploaded for artifacts, by storage path
        self.alerts: list[AlertRecord] = []
        self.sweeps: dict[tuple[str, str], SweepRecord] = {}
        self.views: dict[str, ViewRecord] = {}

        self.requests: list[str] = []  # operation names, and "METHOD /path" for requests that are not GraphQL
        self.unknown: list[str] = []  # requests without an answer: a test fails on them
        self.variables: list[tuple[str, dict[str, Any]]] = []  # (operation, its variables)
        self._bodies: list[bytes] = []
        self._failures: list[tuple[int, str]] = []  # (status, part of the request's name) for the next answers
        self._ids = 0
        self._lock = threading.RLock()
        self._awake = threading.Event()
        self._awake.set()
        self._http: _Server | None = None
        self._port = port
        self.up()

    # Outages and failures.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment with which a process uses this server and no other."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.api_key,
            "WANDB_ENTITY": self.entity,
            "WANDB_ERROR_REPORTING": "false",
        }

    def up(self) -> None:
        """Listen (again) on the same port, with all stored data."""
        self._awake.set()
        if self._http is None:
            self._http = _Server(("127.0.0.1", self._port), self)
            self._port = self._http.server_address[1]
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and cut the open ones."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._http = None
        self._awake.set()

    def hang(self) -> None:
        """Accept requests and answer none until `up` or `down`."""
        self._awake.clear()

    def fail(self, status: int, times: int = 1, where: str = "") -> None:
        """Answer the next requests whose name contains `where` with an HTTP status."""
        with self._lock:
            self._failures += [(status, where)] * times

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    # Used by tests.

    @property
    def artifacts(self) -> list[ArtifactRecord]:
        """All committed versions, the oldest first."""
        return [a for a in self.artifacts_by_id.values() if a.state == "COMMITTED"]

    def artifact(self, name: str) -> ArtifactRecord:
        """The version `collection:alias`, in any project. Raises KeyError."""
        collection, _, alias = name.partition(":")
        for record in self.artifacts:
            if record.collection == collection and (alias or "latest") in (*record.aliases, f"v{record.version}"):
                return record
        raise KeyError(name)

    def content(self, name: str, file: str) -> bytes:
        """The bytes of a file in the artifact `collection:alias`."""
        return self.blobs[self.blob_path(self.artifact(name).files[file]["digest"])]

    def bodies_contain(self, text: str) -> bool:
        """Whether any request, apart from its Authorization header, contained a text."""
        with self._lock:
            return any(text.encode() in body for body in self._bodies)

    def stop(self, project: str, run: str) -> None:
        """Ask a run to stop, as the button on its page does."""
        self.runs[project, run].stop = True

    # Used by the GraphQL types.

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:08x}"

    def run_id(self, record: RunRecord) -> str:
        return global_id("Run", "v1", record.id, record.project, record.entity)

    def run_by_id(self, id: str) -> RunRecord:
        return next(r for r in self.runs.values() if self.run_id(r) == id)

    def runs_of(self, project: str) -> list[RunRecord]:
        return [r for r in self.runs.values() if r.project == project]

    def sweep_by_id(self, id: str) -> SweepRecord:
        return next(s for s in self.sweeps.values() if global_id("Sweep", "v1", s.id, s.project, s.entity) == id)

    def add_project(self, name: str, entity: str | None = None) -> bool:
        """Add a project. Returns whether it is new. Raises RefusedError for another entity than the stand-in's."""
        if entity and entity != self.entity:
            raise RefusedError(f"entity {entity} not found")
        if name in self.projects:
            return False
        self.projects.append(name)
        return True

    def alert(self, project: str, run: str, title: str, text: str, level: str) -> None:
        self.alerts.append(AlertRecord(project, run, title, text, level))

    def ever(self, project: str, collection: str) -> list[ArtifactRecord]:
        """All versions in a collection, including deleted ones."""
        return [a for a in self.artifacts_by_id.values() if (a.project, a.collection) == (project, collection)]

    def versions(self, project: str, collection: str, with_pending: bool = False) -> list[ArtifactRecord]:
        wanted = ("COMMITTED", "PENDING") if with_pending else ("COMMITTED",)
        return [a for a in self.ever(project, collection) if a.state in wanted]

    def give_aliases(self, record: ArtifactRecord, aliases: list[str]) -> None:
        """Give a version aliases. Once it is committed, no other version in its collection keeps them."""
        record.aliases = list(dict.fromkeys([*record.aliases, *aliases]))
        if record.state == "COMMITTED":
            for other in self.versions(record.project, record.collection):
                if other is not record:
                    other.aliases = [a for a in other.aliases if a not in record.aliases]

    def delete_artifact(self, record: ArtifactRecord) -> None:
        """Delete a version, and the bytes that no other version has."""
        record.state, record.aliases = "DELETED", []
        kept = {self.blob_path(e["digest"]) for a in self.artifacts for e in a.own_files.values()}
        for entry in record.own_files.values():
            if self.blob_path(entry["digest"]) not in kept:
                self.blobs.pop(self.blob_path(entry["digest"]), None)

    def blob_path(self, digest: str) -> str:
        """Where the bytes of an MD5 digest (base64) are stored."""
        return f"blobs/{base64.b64decode(digest).hex()}"

    def storage_url(self, path: str) -> str:
        return f"{self.url}/storage/{quote(path)}"

    def add_agent(self, sweep: str, host: str) -> str:
        name = sweep.split("/")[-1]
        record = next((s for s in self.sweeps.values() if s.id == name), None)
        if record is None:
            raise RefusedError(f"sweep {sweep} not found")
        agent = global_id("Agent", self.new_id())
        record.agents[agent] = {"host": host}
        return agent

    def agent_commands(self, agent: str, running: dict[str, Any]) -> str:
        record = next((s for s in self.sweeps.values() if agent in s.agents), None)
        if record is None:
            raise RefusedError(f"agent {agent} not found")
        stopped = {r.id for r in self.runs_of(record.project) if r.stop}
        mine = [r for r in self.runs_of(record.project) if r.sweep == record.id]
        going = any(r.state == "running" for r in mine)
        again = next((r for r in mine if r.state == "preempted" and not r.stop and record.ready(running)), None)
        if again:
            again.beat(None)
        return sweeps.heartbeat(record, agent, running, stopped, self.new_id(), again.id if again else None, going)

    # Used by the handler.

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        """The status and body that answer one request."""
        operation = json.loads(body) if path == "/graphql" else {}
        document = graphql.parse(operation["query"]) if operation else None
        name = document.name if document else f"{method} {path}"
        with self._lock:
            self.requests.append(name)
            self._bodies.append(body)
            for failure in self._failures:
                if failure[1] in name:
                    self._failures.remove(failure)
                    return failure[0], b'{"errors": [{"message": "as the test ordered"}]}'
            if name == "GET /healthz":
                return 200, b"{}"
            try:
                if document:
                    return self._graphql(document, operation.get("variables") or {}, key)
                if path.startswith("/storage/"):
                    return self._storage(method, unquote(path.removeprefix("/storage/")), body)
                if method == "POST" and path.endswith("/file_stream"):
                    return self._file_stream(path, json.loads(body), key)
                raise graphql.GraphQLError("no such address")
            except RefusedError as error:
                return 404, json.dumps({"errors": [{"message": str(error)}]}).encode()
            except Exception as error:  # any error here must show in the test, not in a client's log
                self.unknown.append(f"{name}: {type(error).__name__}: {error}")
                return 400, json.dumps({"errors": [{"message": self.unknown[-1]}]}).encode()

    def _graphql(self, document: graphql.Document, variables: dict[str, Any], key: str | None) -> Answer:
        self.variables.append((document.name, variables))
        if key != self.api_key:
            return 401, b'{"errors": [{"message": "invalid API key"}]}'
        roots = {"query": Query(self), "mutation": Mutation(self)}
        return 200, json.dumps({"data": graphql.execute(document, variables, roots)}).encode()

    def _file_stream(self, path: str, body: dict[str, Any], key: str | None) -> Answer:
        """One transmission from a run: rows and lines at their offsets, a heartbeat, perhaps the end."""
        if key != self.api_key:
            return 401, b"{}"
        _, _, _, project, run, _ = unquote(path).split("/")
        record = self.runs.get((project, run))
        if record is None:
            return 404, b"{}"
        record.beat(body["exitcode"] if body.get("complete") else None)
        record.preempting |= body.get("preempting", False)
        for name, chunk in (body.get("files") or {}).items():
            record.write(name, chunk["offset"], chunk["content"])
        return 200, b"{}"

    def _storage(self, method: str, path: str, body: bytes) -> Answer:
        """PUT and GET for a run's files, and for artifacts' manifests and bytes."""
        if path.startswith("runs/"):
            _, project, run, name = path.split("/", 3)
            place = self.runs[project, run].files
        else:
            place, name = self.blobs, path
        if method == "GET":
            return (200, place[name]) if name in place else (404, b"")
        if path.startswith("blobs/") and hashlib.md5(body).hexdigest() != path.removeprefix("blobs/"):
            raise ValueError("the bytes are not those of their digest")
        place[name] = body
        return 200, b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], standin: StandIn):
        self.standin = standin
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the client's affair. Any other error here is a fault of the stand-in."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.standin.unknown.append(f"the stand-in failed: {error!r}")

    def cut(self) -> None:
        """Close the connections that are open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            return  # the connection was cut
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        standin = self.server.standin
        standin._awake.wait()
        if standin._http is not self.server:
            return  # it went down in the meantime
        status, answer = standin.answer(self.command, urlsplit(self.path).path, self._key(), body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def _key(self) -> str | None:
        """The API key, from `Authorization: Basic base64(api:KEY)`."""
        with suppress(ValueError):
            return (
                base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode().split(":")[-1]
            )
        return None

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass
