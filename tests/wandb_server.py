"""A stand-in for W&B's server, to see what the real client sends, twice or once, and what it makes of the answers.

It speaks the few questions that the client asks (shapes as in the client's own queries), stores what comes, and appends
history at the offset that the client names, as the server's protocol says. What W&B's server makes of it in charts and
tables, rate limits, permissions and its conversion of old history to Parquet are not here: no test speaks of those.
"""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves on a free local port while used as a context."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs: dict[str, dict[str, Any]] = {}
        """By PROJECT/ID."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def steps(self, run: str) -> list[int]:
        """Of the rows of a run's history, in the order in which they stand."""
        return [json.loads(row)["_step"] for row in self.runs[run]["history"]]

    def answer(self, question: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL question, by its name."""
        key = f"{asked.get('project')}/{asked.get('runName') or asked.get('run') or asked.get('name')}"
        run = self.runs.get(key)
        match question:
            case "Viewer" | "GetDefaultEntity":
                return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                return {
                    "model": {"id": "p", "name": asked["project"], "entity": _ENTITY, "bucket": run and _resume(run)}
                }
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(asked), "inserted": run is None}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
            case "Runs":
                return {"project": self._found(asked)}
            case "RunHistoryKeys":
                return {"project": {"run": run and {"historyKeys": _node(run)["historyKeys"]}}}
            case "RunParquetHistory":
                rows = [json.loads(row) for row in run["history"]] if run else []
                return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}
            case "HistoryPage":
                rows = run["history"] if run else []
                page = [row for row in rows if asked["minStep"] <= json.loads(row)["_step"] < asked["maxStep"]]
                return {"project": {"run": {"history": page}}}
        return {}

    def _upsert(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = {"project": asked["project"], "name": asked["name"], "config": "{}", "summary": "{}", "history": []}
        run = self.runs.setdefault(f"{asked['project']}/{asked['name']}", new | {"tags": [], "group": None})
        run["state"] = "running"
        for field, variable in (("config", "config"), ("tags", "tags"), ("group", "groupName")):
            run[field] = asked.get(variable) or run[field]
        return _resume(run) | {"project": {"id": "p", "name": run["project"], "entity": _ENTITY}, "sweepName": None}

    def _found(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        runs = [run for run in self.runs.values() if run["project"] == asked["project"]]
        if not runs:
            return None
        names = json.loads(asked["filters"]).get("name", {}).get("$in")
        edges = [{"node": _node(run), "cursor": run["name"]} for run in runs if names is None or run["name"] in names]
        page = {"endCursor": None, "hasNextPage": False}
        return {"internalId": "1", "runCount": len(edges), "runs": {"edges": edges, "pageInfo": page}}

    def stream(self, run: dict[str, Any], sent: dict[str, Any]) -> None:
        """Take what the client sends of a run while it is open."""
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run["history"][part["offset"] :] = part["content"]
            if name == "wandb-summary.json":
                run["summary"] = part["content"][-1]
        if sent.get("complete"):
            run["state"] = "failed" if sent["exitcode"] else "finished"


_ENTITY = {"id": "e", "name": "me"}


def _resume(run: dict[str, Any]) -> dict[str, Any]:
    counts = {"logLineCount": 0, "historyLineCount": len(run["history"]), "eventsLineCount": 0}
    tails = {"historyTail": json.dumps(run["history"][-1:]), "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
    shown = {"id": f"{run['project']}/{run['name']}", "name": run["name"], "displayName": run["name"]}
    return {**shown, **counts, **tails, "summaryMetrics": run["summary"], "config": run["config"], "tags": run["tags"]}


def _node(run: dict[str, Any]) -> dict[str, Any]:
    last = json.loads(run["history"][-1])["_step"] if run["history"] else -1
    shown = {key: run[key] for key in ("name", "state", "config", "group", "tags")}
    dates = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-05-01T12:00:00Z")
    return {
        **shown,
        **dates,
        "id": "r",
        "summaryMetrics": run["summary"],
        "historyKeys": {"lastStep": last, "keys": {}},
    }


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            sent = json.loads(body)
            question = sent["query"].replace("#graphql", "").split("(")[0].split("{")[0].split()[-1]
            answer = {"data": self.server.answer(question, sent.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            _, _, _, project, name, _ = self.path.split("/")
            self.server.stream(self.server.runs[f"{project}/{name}"], json.loads(body))
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Print nothing."""
