"""A W&B server on 127.0.0.1 that keeps in memory what an SDK uploads to it.

Just enough of the protocol for online runs, resumed runs, `wandb sync` and artifacts: GraphQL at
/graphql, the file stream with the history, and uploads by PUT.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

KEY = "0123456789abcdef" * 2 + "01234567"  # 40 characters, as the SDK demands


class WandbStub:
    """Use as a context manager; `env` is what a client needs in its environment.

    Args:
        status: With another HTTP status than 200, every request is refused (401: a bad key).

    Attributes:
        runs: Run id -> {"config", "displayName", "history": [...], "summary", "exitcode"}.
        uploads: Path of each uploaded file -> content.
        artifacts: Names of the artifacts that were created.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.runs: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.artifacts: list[str] = []
        self._connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> WandbStub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops answering; a client sees a refused connection from here on."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        import os

        print(
            "GQL",
            os.environ.get("STUB_DEBUG") and re.sub(r"\s+", " ", query),
            json.dumps(given)[:500],
            flush=True,
        )
        given = given.get("input", given)
        entity = {"id": "e", "name": "me", "username": "me", "organization": None}
        project = {"id": "p", "internalId": "p", "name": given.get("project"), "entity": entity}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation[1] if operation else ""
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._resumable(given["name"])}}
        if name == "UpsertBucket":
            known = given["name"] in self.runs
            run = self.runs.setdefault(given["name"], {"history": [], "summary": {}})
            run.update({key: value for key, value in given.items() if value is not None})
            bucket = {**self._resumable(given["name"]), "project": project, "sweepName": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if name == "CreateRunFiles":
            run_id = given["run"]
            files = [self._file(run_id, file) for file in given["files"]]
            created = {"runID": run_id, "uploadHeaders": [], "files": files}
            return {"createRunFiles": created}
        if name == "Viewer":
            return {
                "viewer": {
                    **entity,
                    "entity": "me",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        if name == "ArtifactType":
            return {"project": {"artifact": None}}
        if name == "CreateArtifact":
            self.artifacts.append(given["artifactCollectionName"])
            artifact = {"id": self.artifacts[-1], "state": "PENDING"}
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {**artifact, "artifactSequence": sequence}}}
        if name == "CreateArtifactManifest":
            file = self._file(given["artifactID"], given["name"])
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if name == "UpdateArtifactManifest":
            file = self._file("manifests", given["artifactManifestID"])
            return {"updateArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if name == "CreateArtifactFiles":
            edges = [
                {"node": self._file(spec["artifactID"], spec["name"])}
                for spec in given["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        return {}

    def _file(self, owner: str, name: str) -> dict[str, Any]:
        """A file that the client is to upload to /owner/name."""
        url = f"{self.url}/{quote(owner)}/{quote(name)}"
        file = {"id": name, "name": name, "displayName": name, "storagePath": name}
        return {**file, "uploadUrl": url, "uploadHeaders": [], "artifact": {"id": owner}}

    def _resumable(self, run_id: str) -> Any:
        run = self.runs.get(run_id)
        if run is None:
            return None
        history = [json.dumps(row) for row in run["history"]]
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run.get("displayName"),
            "description": None,
            "config": run.get("config", "{}"),
            "summaryMetrics": json.dumps(run["summary"]),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyLineCount": len(history),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": "[]",
            "tags": [],
            "notes": None,
            "wandbConfig": "{}",
        }

    def _file_stream(self, run_id: str, posted: dict[str, Any]) -> None:
        run = self.runs[run_id]
        files = posted.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            del run["history"][part["offset"] :]
            run["history"] += [json.loads(line) for line in part["content"]]
        if "wandb-summary.json" in files:
            run["summary"] = json.loads(files["wandb-summary.json"]["content"][-1])
        if posted.get("complete"):
            run["exitcode"] = posted.get("exitcode")


def _handler(stub: WandbStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            stub._connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer: dict[str, Any] = {}
            if stub.status == 200 and self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": stub._graphql(asked["query"], asked.get("variables") or {})}
            elif stub.status == 200 and self.path.endswith("/file_stream"):
                stub._file_stream(self.path.split("/")[-2], json.loads(body))
            elif self.command == "PUT":
                stub.uploads[unquote(self.path[1:])] = body
            else:
                print(self.command, self.path)
            content = json.dumps(answer).encode()
            self.send_response(stub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
