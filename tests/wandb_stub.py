"""A W&B server on 127.0.0.1 that keeps in memory what an SDK uploads to it.

Just enough of the protocol for online and resumed runs, `wandb sync`, tables and artifacts:
GraphQL, the file stream with the history, and uploads by PUT. Answers are matched to questions by
the name of the GraphQL operation; a missing answer may crash the SDK's service process.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote


class WandbStub:
    """Use as a context manager.

    Args:
        status: With another HTTP status than 200, every request is refused (401: a bad key).

    Attributes:
        env: What a client needs in its environment.
        runs: Run id -> what the client said of it, with "history" (rows), "summary" and, once it
            has finished, "exitcode".
        reports: What was saved of reports; "spec" is their specification, as JSON.
        asked: Names of all GraphQL operations, in order.
        uploads: "<run id or artifact name>/<file>" -> content.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.runs: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.reports: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0123456789" * 4}

    def __enter__(self) -> WandbStub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The server dies: open connections break, new ones are refused."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to one GraphQL operation."""
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation[1] if operation else ""
        self.asked.append(name)
        given = given.get("input", given)
        entity = {"id": "e", "name": "me"}
        project = {"id": "p", "name": given.get("project"), "entity": entity}
        if name == "Viewer":
            user = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": {**user, "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._bucket(given["name"])}}
        if name == "UpsertBucket":
            inserted = given["name"] not in self.runs
            run = self.runs.setdefault(given["name"], {"history": [], "summary": {}})
            run.update({key: value for key, value in given.items() if value is not None})
            bucket = {**self._bucket(given["name"]), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if name in ("projectInternalId", "ProjectInternalId"):
            known = any(run.get("project") == given["projectName"] for run in self.runs.values())
            return {"project": {"internalId": "UHJvamVjdDox"} if known else None}
        if name in ("GetProjects", "Projects"):
            page = {"hasNextPage": False, "endCursor": None}
            return {"models": {"edges": [], "pageInfo": page}}
        if name == "upsertView":
            view = {**given, "id": "Vmlldzox", "name": "v", "updatedAt": None}
            view["project"] = {**project, "name": given["projectName"], "entityName": "me"}
            self.reports.append(view)
            return {"upsertView": {"view": view, "inserted": True}}
        if name == "CreateRunFiles":
            files = [self._file(given["run"], file) for file in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if name == "ArtifactType":
            return {"project": {"artifact": None}}
        if name == "CreateArtifact":
            artifact = {"id": given["artifactCollectionName"], "state": "PENDING"}
            sequence = {"artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": {**artifact, **sequence}}}
        if name == "CreateArtifactManifest":
            file = self._file(given["artifactID"], given["name"])
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if name == "CreateArtifactFiles":
            asked = given["artifactFiles"]
            edges = [{"node": self._file(file["artifactID"], file["name"])} for file in asked]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
        return {}

    def _file(self, owner: str, name: str) -> dict[str, Any]:
        """A file that the client is asked to upload to /owner/name."""
        url = f"{self.url}/{quote(owner)}/{quote(name)}"
        file = {"id": name, "name": name, "storagePath": name, "artifact": {"id": owner}}
        return {**file, "uploadUrl": url, "uploadHeaders": []}

    def _bucket(self, run_id: str) -> Any:
        """A run as the client sees it when it starts or resumes it."""
        run = self.runs.get(run_id)
        if run is None:
            return None
        last = [json.dumps(row) for row in run["history"][-1:]]
        lines = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(run["history"])}
        tails = {"historyTail": json.dumps(last), "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
        names = {"id": run_id, "name": run_id, "displayName": run.get("displayName")}
        state = {"config": run.get("config"), "summaryMetrics": json.dumps(run["summary"])}
        return {**lines, **tails, **names, **state, "tags": []}

    def file_stream(self, run_id: str, posted: dict[str, Any]) -> None:
        """Rows of the history, the summary, and the end of a run."""
        run, files = self.runs[run_id], posted.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            del run["history"][part["offset"] :]
            run["history"] += [json.loads(line) for line in part["content"]]
        if "wandb-summary.json" in files:
            run["summary"] = json.loads(files["wandb-summary.json"]["content"][-1])
        if posted.get("complete"):
            run["exitcode"] = posted.get("exitcode")


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


def _handler(stub: WandbStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            stub.connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer: dict[str, Any] = {}
            if stub.status != 200:
                answer = {"errors": [{"message": "permission denied"}]}
            elif self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": stub.graphql(asked["query"], asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                stub.file_stream(self.path.split("/")[-2], json.loads(body))
            elif self.command == "PUT":
                stub.uploads[unquote(self.path[1:])] = body
            content = json.dumps(answer).encode()
            self.send_response(stub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST
        do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
