"""A bucket on this machine: the part of Google Cloud Storage's JSON protocol that gcsfs, Orbax and
TensorStore use, over HTTP, so that the real libraries are tested."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

google_crc32c = pytest.importorskip("google_crc32c", reason="needs requirements-gcs.txt")
pytest.importorskip("gcsfs", reason="needs requirements-gcs.txt")


class Bucket:
    """The objects of one bucket, by name; objects are whole or absent."""

    def __init__(self, name):
        self.name = name
        self.objects = {}
        # A pattern of requests, as "POST .*checkpoints", and the status they are refused with.
        self.refused = None
        self.address = None
        self._generations = iter(range(1, 10**9))
        self._uploads = {}
        self._lock = threading.Lock()

    @property
    def environment(self):
        """The environment variables that direct a process's libraries to this server only."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "FSSPEC_GCS_TOKEN": "anon",
            # Queries the kind of the bucket by gRPC.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def names(self, folder=""):
        return sorted(name for name in self.objects if name.startswith(folder))

    def put(self, name, content, expected=None):
        """Returns the object's new generation; None if it is not of the expected one."""
        with self._lock:
            if expected is not None and int(expected) != self.objects.get(name, (0, b""))[0]:
                return None
            generation = next(self._generations)
            self.objects[name] = (generation, content)
            return generation

    def about(self, name):
        generation, content = self.objects[name]
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        checksum = google_crc32c.value(content).to_bytes(4, "big")
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "md5Hash": digest,
            "crc32c": base64.b64encode(checksum).decode(),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def listing(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names, folders = [], set()
        for name in self.names(prefix):
            if not query.get("startOffset", "") <= name < query.get("endOffset", "\U0010ffff"):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                folders.add(prefix + head + delimiter)
            else:
                names.append(name)
        return {
            "kind": "storage#objects",
            "items": [self.about(name) for name in names],
            "prefixes": sorted(folders),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", kind="application/json", **headers):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _handle(self):
        bucket = self.server.bucket
        body = self._body()
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = re.sub(r"^/(upload|download|batch)?/?(resumable/)?storage/v1/?", r"\1 ", url.path)
        kind, _, rest = path.partition(" ")
        if bucket.refused and re.search(bucket.refused[0], f"{self.command} {unquote(self.path)}"):
            return self._error(bucket.refused[1], "refused")
        if kind == "batch":
            return self._batch(body)
        match = re.fullmatch(r"b/([^/]+)(?:/(o)(?:/(.+))?)?", rest)
        if not match or unquote(match[1]) != bucket.name:
            return self._error(404, "no such bucket")
        if kind == "upload":
            return self._upload(query, body)
        if not match[2]:
            return self._answer(200, {"kind": "storage#bucket", "name": bucket.name})
        if not match[3]:
            return self._answer(200, bucket.listing(query))
        name = unquote(match[3])
        if self.command == "DELETE":
            found = bucket.objects.pop(name, None)
            return self._answer(204) if found else self._error(404, "no such object")
        if name not in bucket.objects:
            return self._error(404, "no such object")
        if kind == "download" or query.get("alt") == "media":
            return self._content(name)
        return self._answer(200, bucket.about(name))

    # The names http.server calls.
    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle  # noqa: N815

    def _error(self, status, message):
        self._answer(status, {"error": {"code": status, "message": message}})

    def _content(self, name):
        generation, content = self.server.bucket.objects[name]
        headers = {"x_goog_generation": generation, "ETag": f'"{generation}"'}
        if not (asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))):
            return self._answer(200, content, "application/octet-stream", **headers)
        size = len(content)
        start = int(asked[1]) if asked[1] else size - int(asked[2])
        stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        if start >= size:
            return self._error(416, "not in the object")
        headers["Content_Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._answer(206, content[start:stop], "application/octet-stream", **headers)

    def _upload(self, query, body):
        bucket = self.server.bucket
        name, expected = query.get("name"), query.get("ifGenerationMatch")
        if query["uploadType"] == "multipart":
            # Some end lines with \n alone.
            boundary = re.search('boundary="?([^"]+)', self.headers["Content-Type"])[1].encode()
            _, about, rest = body.split(b"--" + boundary, 2)
            name = json.loads(re.split(b"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            content = re.split(b"\r?\n\r?\n", rest, maxsplit=1)[1]
            body = content[: content.rindex(b"\n--" + boundary)]
        elif query["uploadType"] == "resumable":
            number = query.get("upload_id")
            if number is None:
                number = str(len(bucket._uploads))
                bucket._uploads[number] = bytearray()
                where = f"{bucket.address}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable"
                where += f"&name={quote(name, safe='')}&upload_id={number}"
                return self._answer(200, Location=where)
            body = bucket._uploads[number] + body
            if self.headers["Content-Range"].endswith("/*"):
                bucket._uploads[number] = body
                return self._answer(308, Range=f"bytes=0-{len(body) - 1}")
        generation = bucket.put(name, bytes(body), expected)
        if generation is None:
            return self._error(412, "of another generation")
        return self._answer(200, bucket.about(name), x_goog_generation=generation)

    def _batch(self, body):
        """Deletes several objects."""
        parts = []
        for name in re.findall(rb"^DELETE /storage/v1/b/[^/]+/o/(\S+?)(?:\?\S*)? HTTP", body, re.M):
            found = self.server.bucket.objects.pop(unquote(name.decode()), None)
            status = "204 No Content" if found else "404 Not Found"
            parts.append(
                f"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
            )
        content = "".join(parts) + "--batch--"
        self._answer(200, content.encode(), kind="multipart/mixed; boundary=batch")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Logs nothing: gcsfs sends several requests at once, and drops the slower ones."""


@contextlib.contextmanager
def served(name="bucket"):
    """Serves a new bucket on this machine for as long as the block lasts."""
    bucket = Bucket(name)
    server = _Server(("localhost", 0), _Handler)
    server.bucket = bucket
    bucket.address = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
