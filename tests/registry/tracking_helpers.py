"""What tests of MLflow share: finished trials, a client and a proxy that lose answers."""

import contextlib
import json
import socket
import threading

from dept.trial import TrialOutcome
from registry.tracking import TrialLog
from tests.registry.registry_helpers import make_spec


def trial(folder, spec=None, **changes):
    """A finished trial and the folder of its adapter, as the store hands it out."""
    spec = spec or make_spec()
    place = folder / spec.fingerprint
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter.safetensors").write_bytes(b"numbers of " + spec.fingerprint.encode())
    drawn = {"shots": ["r1", "r2"], "validation": ["r3"]}
    (place / "adapter.json").write_text(json.dumps({"metadata": {"drawn": drawn}}), encoding="utf-8")
    fields = {
        "adapter_key": f"adapters/{spec.fingerprint}/1",
        "adapter_sha256": "a" * 64,
        "best_step": 20,
        "steps_done": 60,
        "validation": {"accuracy": 75.0},
        "test": {"accuracy": 70.5},
        "loss_curve": [(30, 2.5), (60, 1.5)],
        "validation_curve": [(0, 55.0), (20, 75.0)],
        "validation_loss_curve": [(0, 0.9), (20, 0.5)],
        "seconds": 60.0,
        "tokens": 900,
        "peak_memory_mib": 512.0,
    }
    return TrialOutcome(spec=spec, **{**fields, **changes}), place


def log_trial(tracker, outcome, folder, parent=None, attempt=1):
    """The MLflow run of one trial, whatever MLflow may hold of it already."""
    item = TrialLog(outcome, attempt=attempt, folder=folder)
    return tracker.log_trials(parent, [item], look=True)[outcome.spec.fingerprint]


class Lossy:
    """An MLflow client that carries a request out and then loses the answer, once for each method named."""

    def __init__(self, client, *methods):
        self._client, self._lose, self.calls = client, set(methods), []

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            self.calls.append(name)
            answer = method(*args, **kwargs)
            if name in self._lose:
                self._lose.remove(name)
                raise ConnectionError("answer lost")
            return answer

        return call


@contextlib.contextmanager
def lossy_proxy(server):
    """An HTTP proxy in front of `server`; what is named in `.lose` is handed on once and not answered.

    `.instead` holds what it does with the next requests in place of handing them on: "cut", or a status.
    """
    import http.server
    import types
    import urllib.error

    seen = types.SimpleNamespace(lose=set(), instead=[])

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            instead = seen.instead.pop(0) if seen.instead else None
            if instead == "cut":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if instead is not None:
                self.send_response(instead)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            asked = urllib.request.Request(f"{server}{self.path}", data=body, headers=kept, method=self.command)
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    status, told = answer.status, answer.read()
            except urllib.error.HTTPError as refusal:
                status, told = refusal.code, refusal.read()
            for part in list(seen.lose):
                if part in self.path:
                    seen.lose.discard(part)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", seen
    finally:
        proxy.shutdown()
        proxy.server_close()
