"""What the tests of `flashblock serve` share: a server with a copy of the demo model, and requests to it.

The program's arguments are PROGRAM MODEL_DIR. The copy's tokenizer has ChatML's tokens.
"""
import contextlib
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from case_support import expect, expect_equal

PROGRAM = sys.argv[1]
DEMO = pathlib.Path(sys.argv[2])
TIMEOUT = 120


class Server:
    def __init__(self, *arguments, port=0):
        self.folder = tempfile.TemporaryDirectory()
        model = pathlib.Path(self.folder.name) / "model"
        shutil.copytree(DEMO, model)
        path = model / "tokenizer.json"
        path.write_text(path.read_text(encoding="utf-8").replace("<|endoftext|>", "<|im_start|>"), encoding="utf-8")
        command = [PROGRAM, "serve", "--model", str(model), "--port", str(port), "-n", "16", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", line)
        expect(found, "first line", line, self.process.stderr.read() if not found else "")
        self.port = int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def open(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, headers or {})
        return connection, connection.getresponse()

    def ask(self, path, body=None, method=None, **more):
        connection, response = self.open(method or ("GET" if body is None else "POST"), path, body, **more)
        with contextlib.closing(connection):
            return response.status, response.read().decode()

    def complete(self, prompt, **fields):
        status, text = self.ask("/v1/completions", {"prompt": prompt, **fields})
        expect_equal(status, 200, text)
        return json.loads(text)

    def chat(self, *texts, **fields):
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        status, text = self.ask("/v1/chat/completions", {"messages": messages, **fields})
        expect_equal(status, 200, text)
        return json.loads(text)

    def stream(self, prompt, **fields):
        connection, response = self.open("POST", "/v1/completions", {"prompt": prompt, "stream": True, **fields})
        with contextlib.closing(connection):
            expect_equal(response.getheader("Content-Type"), "text/event-stream", "type")
            lines = [line for line in response.read().decode().split("\n\n") if line]
        expect(all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines)
        return [json.loads(line[6:]) for line in lines[:-1]]

    def metric(self, name):
        return float(re.search(rf"^flashblock_{name} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)[1])

    def wait_for(self, name, value, seconds=20):
        end = time.monotonic() + seconds
        while self.metric(name) != value:
            expect(time.monotonic() < end, name, "is", self.metric(name), "not", value)
            time.sleep(0.02)

    def is_alive(self):
        expect_equal(self.ask("/health"), (200, '{"status":"ok"}'), "health")


def resident_mb(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def text_of(reply, index=0):
    choice = reply["choices"][index]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def post(body, more=b"", path="/v1/completions"):
    """Bytes of a request, and of what follows it in the same connection."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s%s" % (path.encode(), len(data), data, more)
