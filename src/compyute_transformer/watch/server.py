"""Server: the page of `compyute watch` and its numbers, for browsers on this machine only.

GET /                    the page, one file with its styles and code
GET /runs?have=S:N,...   JSON: of each run the records from number N on, if its story is S, else all of them
GET /weights?run=I       JSON: histograms of the weights in the last checkpoint of run I
"""

import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..explain.page import one_file
from ..training import load_config
from .followed import FollowedRun, find_runs

__all__ = ["Watcher"]

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # what a browser on this machine calls the server; others come through foreign pages


class Watcher:
    """A server that follows runs. port: 0 takes a free one.

    Raises RunError for a path without runs, OSError for a port that is taken.
    """

    def __init__(self, paths: Sequence[str | Path], port: int = 0) -> None:
        self.runs = [FollowedRun(path) for path in find_runs([Path(path) for path in paths])]
        self._lock = Lock()
        self._server = _Server((HOST, port), _Handler)
        self._server.watcher = self

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Answer browsers until `close`, or until an exception such as KeyboardInterrupt."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()

    def close(self) -> None:
        """Make `serve` return."""
        self._server.shutdown()

    def news(self, have: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return what is new of each run. have: for each, the story and how many of its records are known."""
        with self._lock:
            return [
                self._news(index, *(have[index] if index < len(have) else (0, 0))) for index in range(len(self.runs))
            ]

    def _news(self, index: int, story: int, known: int) -> dict[str, Any]:
        run = self.runs[index]
        run.read()
        first = known if story == run.story and 0 <= known <= len(run.records) else 0
        return {
            "name": self._name(index),
            "steps": _steps(run.folder),
            "story": run.story,
            "first": first,
            "records": run.records[first:],
            "idle": run.idle_seconds(time.time()),
        }

    def _name(self, index: int) -> str:
        """Return the name of a run's folder, or the whole path where several have the same name."""
        names = [run.folder.resolve().name for run in self.runs]
        return str(self.runs[index].folder) if names.count(names[index]) > 1 else names[index]

    def weights(self, index: int) -> dict[str, Any] | None:
        """Return the histograms of a run's last weights; None for a run without a checkpoint, and for no run."""
        with self._lock:
            return self.runs[index].weights() if 0 <= index < len(self.runs) else None


def _steps(folder: Path) -> int | None:
    """Return how many steps a run is to take; None where its configuration cannot be read."""
    try:
        return load_config(folder).settings.training.steps
    except Exception:  # the page shows what there is of a damaged run, too
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    watcher: Watcher


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request. A host name that is not this machine's is refused: it comes through a foreign page."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        if host not in NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "This page is for browsers on this machine.")
        elif asked.path == "/":
            self._answer(HTTPStatus.OK, "text/html", page())
        elif asked.path == "/runs":
            self._json(self.server.watcher.news(_parse_have(query.get("have", ""))))
        elif asked.path == "/weights":
            index = query.get("run", "")
            self._json(self.server.watcher.weights(int(index) if index.isdecimal() and len(index) < 9 else -1))
        elif asked.path == "/favicon.ico":  # which browsers ask for by themselves
            self._answer(HTTPStatus.NO_CONTENT, "image/x-icon", "")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "There is nothing here.")

    def _json(self, value: Any) -> None:
        self._answer(HTTPStatus.OK, "application/json", json.dumps(value))

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8")
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal belongs to whoever started the server."""


def _parse_have(text: str) -> list[tuple[int, int]]:
    """Return the pairs of "1:20,1:0"; (0, 0), which no story is, for what is no pair."""
    pairs = []
    for part in text.split(","):
        story, _, known = part.partition(":")
        fits = story.isdecimal() and known.isdecimal() and len(part) < 30
        pairs.append((int(story), int(known)) if fits else (0, 0))
    return pairs


def page() -> str:
    """Return the page, which fetches its numbers from this server alone."""
    folder = files(__package__) / "assets"
    shared = files("compyute_transformer.explain") / "assets" / "style.css"
    style = shared.read_text(encoding="utf-8") + (folder / "watch.css").read_text(encoding="utf-8")
    scripts = [folder / name for name in ("chart.js", "watch.js")]
    return one_file(folder / "watch.html", style, scripts, {}, "", source="'self'")
