"""A stand-in for a Kubernetes cluster of one node: its API, as kubectl and Prefect's worker use it, and pods by podman.

What is created is held against Kubernetes' own schemas, strictly. Pods are run as containers on this machine's network:
command, environment, secrets, user and scratch disks as their manifest says. GPUs, probes, limits and rights are not
played.
"""

import base64
import json
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import kubernetes_validate

KINDS = {  # by group and version
    "api/v1": {
        "namespaces": "Namespace",
        "configmaps": "ConfigMap",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "pods": "Pod",
        "events": "Event",
    },
    "apis/apps/v1": {"deployments": "Deployment"},
    "apis/batch/v1": {"jobs": "Job"},
    "apis/rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
}
VERSION = "1.36.0"


class Cluster:
    """Objects by kind, namespace and name; `run` starts the containers of a pod."""

    def __init__(self, mounts=()):
        self.objects, self.changes, self.changed = {}, [], threading.Condition()
        self.mounts, self.names, self.stopped = list(mounts), [], False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, kind, body, change="ADDED"):
        with self.changed:
            self.changes.append((kind, change, body))
            body["metadata"]["resourceVersion"] = str(len(self.changes))
            key = (kind, body["metadata"].get("namespace", ""), body["metadata"]["name"])
            if change == "DELETED":
                self.objects.pop(key, None)
            else:
                self.objects[key] = body
            self.changes[-1] = (kind, change, json.loads(json.dumps(body)))
            self.changed.notify_all()
        return body

    def create(self, kind, body):
        """Raises ValueError if it does not fit the schema."""
        checked = json.loads(json.dumps(body))
        if kind == "Job":
            for misplaced in ("parallelism", "completions"):  # Prefect insists on them; Kubernetes warns and drops them
                checked["spec"]["template"]["spec"].pop(misplaced, None)
        try:
            kubernetes_validate.validate(checked, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise ValueError(f"{kind}: {error.message} at {list(error.path)}") from error
        about = body["metadata"]
        about.setdefault("name", about.get("generateName", "") + uuid.uuid4().hex[:5])
        about |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        made = self.put(kind, body)
        if kind in ("Deployment", "Job"):
            threading.Thread(target=self._pod, args=(kind, made), daemon=True).start()
        return made

    def delete(self, kind, namespace, name):
        body = self.objects[kind, namespace, name]
        if kind == "Job":
            subprocess.run(["podman", "rm", "--force", "--time", "30", f"k8s-{name}"], capture_output=True, check=False)
        return self.put(kind, body, "DELETED")

    def stop(self):
        self.stopped = True
        for name in self.names:
            subprocess.run(["podman", "rm", "--force", "--time", "5", name], capture_output=True, check=False)
        self.server.shutdown()

    def _pod(self, kind, owner):
        about, spec = owner["metadata"], owner["spec"]["template"]["spec"]
        name, labels = about["name"], owner["spec"]["template"].get("metadata", {}).get("labels", {})
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-pod",
                "namespace": about["namespace"],
                "labels": {**labels, "job-name": name},
                "uid": str(uuid.uuid4()),
                "creationTimestamp": _now(),
            },
            "spec": spec,
            "status": {"phase": "Pending", "containerStatuses": []},
        }
        self.put("Pod", pod)
        while True:
            code = next((c for one in spec.get("initContainers", []) if (c := self._run(name, spec, one))), 0)
            pod["status"] = {"phase": "Running", "containerStatuses": [], "startTime": _now()}
            self.put("Pod", pod, "MODIFIED")
            code = code or self._run(name, spec, spec["containers"][0])
            if self.stopped:
                return
            if kind == "Job":
                break
            time.sleep(5)  # a Deployment's container is started again
        pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": []}
        self.put("Pod", pod, "MODIFIED")
        owner["status"] = {"failed" if code else "succeeded": 1, "completionTime": _now()}
        self.put(kind, owner, "MODIFIED")

    def _run(self, name, spec, container):
        env = {}
        for source in container.get("envFrom", []):
            (how, which), *_ = source.items()
            kind, field = ("Secret", "secretRef") if how == "secretRef" else ("ConfigMap", "configMapRef")
            assert how == field
            body = self.objects[kind, "dept", which["name"]]
            values = body.get("data", {})
            env |= {k: base64.b64decode(v).decode() if kind == "Secret" else v for k, v in values.items()}
        for one in container.get("env", []):
            if reference := one.get("valueFrom", {}).get("secretKeyRef"):
                data = self.objects["Secret", "dept", reference["name"]]["data"]
                env[one["name"]] = base64.b64decode(data[reference["key"]]).decode()
            elif one.get("value") is not None:
                env[one["name"]] = one["value"]
        env["PREFECT_WORKER_WEBSERVER_PORT"] = str(8080 + len(self.names))  # pods of one node's network share its ports
        command = ["podman", "run", "--rm", "--name", f"k8s-{name}", "--hostname", name, "--network", "host"]
        command += ["--user", str(spec["securityContext"]["runAsUser"]), "--pull", "never"]
        disks = {disk["name"]: disk["emptyDir"] for disk in spec.get("volumes", [])}  # of no other kind
        for mount in container.get("volumeMounts", []):
            memory = disks[mount["name"]].get("medium") == "Memory"
            where = mount["mountPath"]
            command += ["--shm-size", "512m"] if memory else ["--volume", f"k8s-{name}-{mount['name']}:{where}:U"]
        for mount in self.mounts:
            command += ["--volume", mount]
        for key, value in env.items():
            command += ["--env", f"{key}={value}"]
        command += [container["image"], *container.get("command", []), *container.get("args", [])]
        self.names.append(f"k8s-{name}")
        return subprocess.run(command, check=False).returncode


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_):
        pass

    def answer(self, body, code=200):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code, message, reason):
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        self.answer({**body, "code": code, "message": message, "reason": reason}, code)

    def place(self):
        """(kind, namespace, name, part) that the path names; kind is None where it is a page of the API itself."""
        path = urlparse(self.path).path.strip("/")
        group = next((one for one in KINDS if path.startswith(f"{one}/")), None)
        if group is None:
            return None, "", "", ""
        words, namespace = path.removeprefix(f"{group}/").split("/"), ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        return KINDS[group][words[0]], namespace, *(*words[1:], "", "")[:2]

    def do_GET(self):
        kind, namespace, name, part = self.place()
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        if kind is None:
            self.about()
        elif part == "log":
            done = subprocess.run(
                ["podman", "logs", f"k8s-{name.removesuffix('-pod')}"], capture_output=True, check=False
            )
            self.answer(done.stdout.decode())
        elif name:
            body = self.cluster.objects.get((kind, namespace, name))
            self.answer(body) if body else self.refuse(404, f"{kind} {name} not found", "NotFound")
        elif query.get("watch") in ("true", "1", "True"):
            self.watch(kind, namespace, query)
        else:
            wanted = query.get("labelSelector", "")
            items = [o for (k, n, _), o in self.cluster.objects.items() if k == kind and namespace in ("", n)]
            items = [one for one in items if _fits(one, wanted)]
            version = str(len(self.cluster.changes))
            self.answer(
                {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}
            )

    def about(self):
        path = urlparse(self.path).path.strip("/")
        groups = [group.split("/")[1:] for group in KINDS if group.startswith("apis/")]
        if path == "api":
            self.answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            told = [{"name": g, "versions": [{"groupVersion": f"{g}/{v}", "version": v}]} for g, v in groups]
            told = [{**one, "preferredVersion": one["versions"][0]} for one in told]
            self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": told})
        elif path in KINDS:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            told = [
                {"name": plural, "singularName": "", "kind": kind, "namespaced": kind != "Namespace", "verbs": verbs}
                for plural, kind in KINDS[path].items()
            ]
            version = path.removeprefix("apis/").removeprefix("api/")
            self.answer({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": told})
        elif path == "version":
            self.answer({"major": "1", "minor": "36", "gitVersion": f"v{VERSION}"})
        else:
            self.refuse(404, f"no {path}", "NotFound")

    def watch(self, kind, namespace, query):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen, until = int(query.get("resourceVersion") or 0), time.monotonic() + float(query.get("timeoutSeconds", 600))
        try:
            while time.monotonic() < until:
                with self.cluster.changed:
                    if len(self.cluster.changes) == seen:
                        self.cluster.changed.wait(5)
                    new, seen = self.cluster.changes[seen:], len(self.cluster.changes)
                for what, change, body in new:
                    fits = what == kind and namespace in ("", body["metadata"].get("namespace"))
                    if fits and _fits(body, query.get("labelSelector", "")):
                        data = json.dumps({"type": change, "object": body}).encode() + b"\n"
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass

    def do_POST(self):
        kind, namespace, _, _ = self.place()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if namespace:
            body["metadata"].setdefault("namespace", namespace)
        if "dryRun" in self.path:
            return self.answer(body, 201)
        try:
            return self.answer(self.cluster.create(kind, body), 201)
        except ValueError as error:
            return self.refuse(422, str(error), "Invalid")

    def do_DELETE(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, namespace, name, _ = self.place()
        if (kind, namespace, name) not in self.cluster.objects:
            return self.refuse(404, f"{kind} {name} not found", "NotFound")
        return self.answer(self.cluster.delete(kind, namespace, name))


def _fits(body, selector):
    labels = body["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        name, _, value = part.partition("=")
        if name not in labels or (value and labels[name] != value):
            return False
    return True
