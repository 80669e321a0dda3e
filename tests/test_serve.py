#!/usr/bin/python3
"""test_serve.py PROGRAM MODEL_DIR: `flashblock serve`, asked over sockets. Prints TAP.

MODEL_DIR is the demo model; the cases use a copy of it whose tokenizer has ChatML's tokens.
"""
import contextlib
import http.client
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from case_support import case, expect, expect_equal, run_cases
from serve_support import DEMO, PROGRAM, TIMEOUT, Server, post, resident_mb, text_of

def generated(server, prompt, *arguments):
    told = subprocess.run(
        [PROGRAM, "generate", "--model", f"{server.folder.name}/model", "-p", prompt, "--json", *map(str, arguments)],
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    return json.loads(told.stdout)["results"][0]["text"]


# --- texts ---------------------------------------------------------------------------------------


@case
def texts_are_those_of_generate():
    with Server() as server:
        prompt = "And it came to pass"
        expect_equal(text_of(server.complete(prompt)), generated(server, prompt, "-n", 16), "completion")
        expect_equal(text_of(server.chat("Who?")), generated(server, "Who?", "-n", 16, "--chat"), "chat")
        own = {"tau": 0, "block_size": 8, "denoising_steps": 4, "threshold": 0.5}
        same = ["--tau", 0, "-b", 8, "-s", 4, "--confidence-threshold", 0.5]
        expect_equal(text_of(server.complete(prompt, flashblock=own)), generated(server, prompt, "-n", 16, *same), "own")
        drawn = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7, "max_tokens": 20}
        same = ["--temperature", 0.8, "--top-p", 0.9, "--top-k", 40, "--seed", 7, "-n", 20]
        expect_equal(text_of(server.complete(prompt, **drawn)), generated(server, prompt, *same), "drawn")
        reply = server.complete(prompt, n=3, **drawn)
        same[7] = 9
        expect_equal(text_of(reply, 2), generated(server, prompt, *same), "the third of three")


@case
def replies_have_openai_form():
    with Server() as server:
        reply = server.chat("Who?")
        expect_equal(reply["object"], "chat.completion", "object")
        expect_equal(reply["model"], "model", "model")
        choice = reply["choices"][0]
        expect_equal((choice["index"], choice["finish_reason"], choice["message"]["role"]), (0, "length", "assistant"), "choice")
        usage = reply["usage"]
        expect_equal(usage["completion_tokens"], 16, "tokens")
        expect_equal(usage["total_tokens"], usage["prompt_tokens"] + 16, "tokens")
        expect(reply["flashblock"]["refreshes"] > 0 and reply["flashblock"]["reuses"] > 0, reply["flashblock"])
        status, models = server.ask("/v1/models")
        expect_equal((status, json.loads(models)["data"][0]["id"]), (200, "model"), "models")


@case
def streams_are_the_same_texts():
    with Server() as server:
        prompt = "And it came to pass"
        whole = text_of(server.complete(prompt, max_tokens=24))
        events = server.stream(prompt, max_tokens=24, stream_options={"include_usage": True})
        pieces = [event["choices"][0]["text"] for event in events if event["choices"]]
        expect_equal("".join(pieces), whole, "text")
        expect(len(pieces) > 3, "an event a block", pieces)
        expect_equal(events[-1]["usage"]["completion_tokens"], 24, "usage")
        expect_equal([e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1], "length", "reason")
        both = server.stream(prompt, max_tokens=24, n=2)
        for index in (0, 1):
            own = "".join(e["choices"][0]["text"] for e in both if e["choices"][0]["index"] == index)
            expect_equal(own, whole, f"choice {index}")


@case
def stop_texts_end_a_text():
    with Server() as server:
        prompt = "And it came to pass"
        whole = text_of(server.complete(prompt, max_tokens=40))
        words = whole.split()
        for stop in (words[3], whole[5:12], [words[5], "never"], whole[-3:]):
            first = min(whole.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in whole)
            reply = server.complete(prompt, max_tokens=40, stop=stop)
            expect_equal(text_of(reply), whole[:first], stop)
            expect_equal(reply["choices"][0]["finish_reason"], "stop", "reason")
            streamed = "".join(e["choices"][0]["text"] for e in server.stream(prompt, max_tokens=40, stop=stop))
            expect_equal(streamed, whole[:first], f"stream, {stop}")


def accepted(server, prompt, tokens):
    """Of each token of the text, by position, what the record of `flashblock generate` has of the step that accepted it."""
    path = f"{server.folder.name}/record"
    generated(server, prompt, "-n", tokens, "--record", path)
    result, block = [], {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()[1:]:
        one = json.loads(line)
        if one.get("step") == "commit":
            result += [block[at] for at in sorted(block)]
            block = {}
        elif "step" in one:
            block.update((at, (one["proposed"][at], one["confidence"][at])) for at in one["accepted"])
    return result[:tokens]


@case
def logprobs_are_confidences_of_the_accepting_steps():
    with Server() as server:
        prompt = "And it came to pass"
        whole = server.complete(prompt, max_tokens=22, logprobs=3)["choices"][0]
        found = whole["logprobs"]
        wanted = accepted(server, prompt, 22)
        expect_equal(len(found["tokens"]), 22, "tokens")
        for token, logprob, top, (_, confidence) in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], wanted):
            # The confidence is a float, of a float's exponential.
            expect(abs(math.exp(logprob) / confidence - 1) < 1e-6, token, math.exp(logprob), confidence)
            expect_equal(list(top)[0], token, "the most probable one, which a greedy decoder takes")
            expect(len(top) == 3 and list(top.values()) == sorted(top.values(), reverse=True) and top[token] == logprob, top)
        expect_equal("".join(found["tokens"]), whole["text"], "text")
        expect_equal(found["text_offset"], [len("".join(found["tokens"][:i])) for i in range(22)], "offsets")
        expect_equal(server.complete(prompt)["choices"][0]["logprobs"], None, "where nobody asks")


@case
def logprobs_have_the_form_of_each_address():
    with Server() as server:
        fields = {"max_tokens": 30, "temperature": 1, "seed": 3}
        choice = server.chat("Who?", logprobs=True, top_logprobs=2, **fields)["choices"][0]
        content = choice["logprobs"]["content"]
        expect_equal(bytes(byte for one in content for byte in one["bytes"]).decode(), choice["message"]["content"], "bytes")
        for one in content:
            expect(one["logprob"] <= 0 and len(one["top_logprobs"]) == 2, one)
            expect(one["top_logprobs"][0]["logprob"] >= max(one["logprob"], one["top_logprobs"][1]["logprob"]), one)
        text = text_of(server.complete("Who?", **fields))
        for stop in ([], [text[20:26]]):
            whole = server.complete("Who?", logprobs=2, stop=stop, **fields)["choices"][0]
            events = [e["choices"][0] for e in server.stream("Who?", logprobs=2, stop=stop, **fields)]
            for name, values in whole["logprobs"].items():
                expect_equal([value for e in events for value in e["logprobs"][name]], values, (stop, name))
            joined = "".join(whole["logprobs"]["tokens"])
            expect(joined.startswith(whole["text"]), joined, whole["text"])
            expect(whole["logprobs"]["text_offset"][-1] < len(whole["text"]), whole)


@case
def what_is_kept_changes_nothing():
    with Server() as server, Server() as fresh:
        first = server.chat("Who art thou?")
        turns = ["Who art thou?", text_of(first), "And then?"]
        second = server.chat(*turns)
        alone = fresh.chat(*turns)
        expect_equal(text_of(second), text_of(alone), "text")
        expect(second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, second["usage"])
        expect_equal(alone["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "kept")


@case
def clients_do_not_change_each_others_texts():
    with Server("--parallel", 4) as server:
        bodies = [
            {"prompt": f"And {i} " + "came to pass " * (i % 5), "max_tokens": 8 + 3 * i, "temperature": (i % 3) / 2, "seed": i}
            for i in range(12)
        ]
        alone = [text_of(server.complete(**body)) for body in bodies]
        wrong = []

        def client(number):
            order = random.Random(number)
            for _ in range(4):
                i = order.randrange(len(bodies))
                if text_of(server.complete(**bodies[i])) != alone[i]:
                    wrong.append(i)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=TIMEOUT)
        expect_equal(wrong, [], "texts that differ")
        expect_equal(server.metric("requests_failed_total"), 0, "failures")
        server.wait_for("active_sequences", 0)


# --- clients that go, and too many of them ---------------------------------------------------------


@case
def a_client_that_goes_frees_its_place():
    """By an end or a reset, with and without a next request behind the first one."""
    with Server("--parallel", 1) as server:
        for stream in (True, False):
            for more in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                for reset in (False, True):
                    before = server.metric("requests_cancelled_total")
                    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as client:
                        client.sendall(post({"prompt": "And", "max_tokens": 12000, "stream": stream}, more))
                        server.wait_for("active_sequences", 1)
                        if reset:
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    server.wait_for("active_sequences", 0)
                    expect_equal(server.metric("requests_cancelled_total"), before + 1, (stream, more, reset))
        expect_equal(len(server.complete("And")["choices"]), 1, "the next request")


@case
def too_many_requests_are_told():
    with Server("--parallel", 1, "--queue", 2) as server:
        waiting = []
        for _ in range(3):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
            client.request("POST", "/v1/completions", json.dumps({"prompt": "And", "max_tokens": 12000}))
            waiting.append(client)
            server.wait_for("requests_total", len(waiting))
            server.wait_for("active_sequences", 1)
        server.wait_for("queue_length", 2)
        status, text = server.ask("/v1/completions", {"prompt": "And"})
        expect_equal((status, json.loads(text)["error"]["type"]), (429, "rate_limit_error"), "status")
        for client in waiting:
            client.close()
        server.wait_for("queue_length", 0)
        server.wait_for("active_sequences", 0)
        server.complete("And")


@case
def a_client_that_goes_frees_its_place_in_the_queue():
    """Also while no text ends."""
    with Server("--parallel", 1, "--queue", 2) as server:
        body = {"prompt": "And", "max_tokens": 12000}
        first = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
        first.sendall(post(body))
        server.wait_for("active_sequences", 1)
        for stream in (False, True):
            waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) for _ in range(2)]
            for client in waiting:
                client.sendall(post({**body, "stream": stream}))
            server.wait_for("queue_length", 2)
            for client in waiting:
                client.close()
            server.wait_for("queue_length", 0)
            expect_equal(server.metric("active_sequences"), 1, "the first one goes on")
        first.close()
        server.complete("And")
        expect_equal(server.metric("requests_rejected_total"), 0, "requests that found no place")


@case
def a_request_has_its_time():
    with Server("--parallel", 1, "--request-seconds", 2) as server:
        late = []
        first = threading.Thread(target=lambda: late.append(server.complete("And", max_tokens=14000)))
        first.start()
        server.wait_for("active_sequences", 1)
        first.join(timeout=TIMEOUT)
        expect(0 < late[0]["usage"]["completion_tokens"] < 14000, late[0]["usage"])
        expect_equal(late[0]["choices"][0]["finish_reason"], "length", "reason")
        server.wait_for("active_sequences", 0)


@case
def sigterm_lets_requests_end():
    with Server() as server:
        result = []
        thread = threading.Thread(target=lambda: result.append(server.complete("And", max_tokens=300)))
        thread.start()
        server.wait_for("active_sequences", 1)
        server.process.send_signal(signal.SIGTERM)
        thread.join(timeout=TIMEOUT)
        expect_equal(result[0]["usage"]["completion_tokens"], 300, "tokens")
        expect_equal(server.process.wait(timeout=TIMEOUT), 0, "exit status")


@case
def who_asks_while_the_server_ends_does_no_harm():
    """Over connections that are open, and are served until the last moment."""
    asks = [
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post({"prompt": "x", "max_tokens": 1}) + post({"prompt": "x", "max_tokens": 0}),
    ]
    for _ in range(4):
        with Server("--drain-seconds", 0) as server:
            answered = threading.Semaphore(0)

            def client(data):
                with contextlib.suppress(OSError):
                    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as connection:
                        while True:
                            connection.sendall(data * 20)
                            if not connection.recv(1 << 20):
                                return
                            answered.release()

            threads = [threading.Thread(target=client, args=(asks[number % 2],)) for number in range(5)]
            for thread in threads:
                thread.start()
            for _ in range(20):
                answered.acquire()
            server.process.send_signal(signal.SIGTERM)
            expect_equal(server.process.wait(timeout=TIMEOUT), 0, "exit status")
            expect_equal(server.process.stderr.read(), b"", "standard error")
            for thread in threads:
                thread.join(timeout=TIMEOUT)


@case
def a_second_signal_ends_at_once():
    with Server() as server:
        thread = threading.Thread(target=lambda: server.ask("/v1/completions", {"prompt": "And", "max_tokens": 14000}))
        thread.start()
        server.wait_for("active_sequences", 1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        expect(server.process.poll() is None, "it drains")
        server.process.send_signal(signal.SIGTERM)
        expect_equal(server.process.wait(timeout=10), 0, "exit status")
        thread.join(timeout=TIMEOUT)


# --- what is wrong ---------------------------------------------------------------------------------


@case
def requests_that_are_wrong():
    with Server() as server:
        for body, word in [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "request"),
            ("\x00", "JSON"),
            ("[" * 5000, "request"),
            ({}, "prompt"),
            ({"prompt": 7}, "prompt"),
            ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
            ({"prompt": "x", "temperature": -1}, "temperature"),
            ({"prompt": "x", "top_p": 0}, "top_p"),
            ({"prompt": "x", "n": 0}, "n is"),
            ({"prompt": "x", "n": 17}, "n is"),
            ({"prompt": "x", "stream": 1}, "stream"),
            ({"prompt": "x", "stop": 7}, "stop"),
            ({"prompt": "x", "stop": [""]}, "empty text"),
            ({"prompt": "x", "stop": ["a"] * 5}, "stop"),
            ({"prompt": "x", "logprobs": 21}, "logprobs"),
            ({"prompt": "x", "logprobs": True}, "logprobs"),
            ({"prompt": "x", "flashblock": 7}, "flashblock"),
            ({"prompt": "x", "flashblock": {"tau": -1}}, "tau"),
            ({"prompt": "x", "flashblock": {"remasking": "x"}}, "remasking"),
            ({"prompt": "x", "flashblock": {"reuse": "x"}}, "reuse"),
            ({"prompt": "word " * 20000}, "16384"),
        ]:
            status, text = server.ask("/v1/completions", body, method="POST")
            error = json.loads(text)["error"]
            expect_equal((status, error["type"]), (400, "invalid_request_error"), (str(body)[:80], text))
            expect(word in error["message"], word, error)
        for name, wanted in (("model", 200), ("", 200), ("another", 404), ("\U0001d11e" * 300, 404)):
            status, text = server.ask("/v1/completions", {"model": name, "prompt": "x"})
            expect_equal(status, wanted, (name[:10], text))
            expect(wanted == 200 or json.loads(text)["error"]["code"] == "model_not_found", text)
        user, assistant = ({"role": role, "content": "x"} for role in ("user", "assistant"))
        for fields in ({"logprobs": 3}, {"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}):
            status, text = server.ask("/v1/chat/completions", {"messages": [user], **fields})
            expect_equal((status, "logprobs" in text), (400, True), text)
        for messages in ([], [assistant], [user, user], [user, assistant], [{"role": "user"}], [user, assistant, {"role": "system", "content": "x"}], 7, [7]):
            status, text = server.ask("/v1/chat/completions", {"messages": messages})
            expect_equal(status, 400, (messages, text))
        for method, path, wanted in [
            ("GET", "/nothing", 404),
            ("GET", "/v1/models/model", 200),
            ("GET", "/v1/models/another", 404),
            ("GET", "/v1/completions", 405),
            ("POST", "/v1/models", 405),
            ("DELETE", "/health", 405),
            ("HEAD", "/health", 200),
            ("HEAD", "/", 200),
        ]:
            expect_equal(server.ask(path, method=method)[0], wanted, (method, path))
        for path, allowed in (("/v1/completions", "POST"), ("/v1/models", "GET, HEAD")):
            connection, response = server.open("PUT", path)
            with contextlib.closing(connection):
                expect_equal((response.status, response.getheader("Allow")), (405, allowed), path)
        expect_equal(server.ask("/v1/completions", " " * (9 << 20), method="POST")[0], 413, "a large body")
        many = [{"role": ("user", "assistant")[i % 2], "content": ""} for i in range(16385)]
        status, text = server.ask("/v1/chat/completions", {"messages": many})
        expect((status, "leave no room" in text) == (400, True), text)
        server.is_alive()


@case
def any_bytes_at_all():
    seed = random.randrange(1 << 30)
    print(f"# seed {seed}")
    drawn = random.Random(seed)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Server() as server:
        for _ in range(200):
            data = bytearray(head + body)
            for _ in range(drawn.randrange(1, 8)):
                at = drawn.randrange(len(data))
                kind = drawn.randrange(3)
                if kind == 0:
                    data[at] = drawn.randrange(256)
                elif kind == 1:
                    del data[at : at + drawn.randrange(20)]
                else:
                    data[at:at] = drawn.randbytes(drawn.randrange(20))
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                    client.sendall(data)
                    client.settimeout(0.05)
                    client.recv(4096)
        server.is_alive()
        server.wait_for("active_sequences", 0)
        server.complete("And")
        server.process.send_signal(signal.SIGTERM)
        expect_equal(server.process.wait(timeout=TIMEOUT), 0, "exit status")


def exchange(server, data, pieces=1, pause=0.1):
    """What comes back for these bytes, sent in so many pieces, until the server closes, or a pause after the first ones."""
    reply = b""
    size = max(1, -(-len(data) // pieces))
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as client:
        with contextlib.suppress(OSError):  # the server may close before it has read all of it
            for at in range(0, len(data), size):
                client.sendall(data[at : at + size])
            while piece := client.recv(65536):
                reply += piece
                client.settimeout(pause)
    return reply


@case
def http_that_is_strange():
    """Bytes that are no request get an error or an end, and the next client gets its reply."""
    body = json.dumps({"prompt": "And", "max_tokens": 4}).encode()
    start = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Server() as server:
        half = [post({"prompt": "And"})[:size] for size in (1, 20, 60, 70, 80)] + [chunked, chunked + b"5\r\nab"]
        open_ones = [socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) for _ in half]
        for client, data in zip(open_ones, half):
            client.sendall(data)
        for data, wanted in [
            (post(body), 200),
            (chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), 200),
            (start + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), 100),
            (health.replace(b"1.1", b"1.0"), 200),
            (chunked + b"zz\r\n" + body, 400),
            (chunked + b"f" * 40 + b"\r\n" + body, None),
            (start + b"Content-Length: -1\r\n\r\n" + body, None),
            (start + b"Content-Length: 99999999999999999999999\r\n\r\n" + body, None),
            (start + b"Content-Length: many\r\n\r\n" + body, None),
            (start + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + body, 400),
            (start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), 400),
            (start + b"Content-Length : 5\r\n\r\n" + body, 400),
            (start + b"\r\n" + body, 400),
            (start + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n", 431),
            (start + b"".join(b"X%d: x\r\n" % i for i in range(20000)) + b"\r\n", 431),
            (b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
            (b"x" * (1 << 20), None),
            (b"\0" * 1000, None),
            (b"\r\n" * 1000 + health, None),
            (b"GET /health\n\n", None),
            (health.replace(b"1.1", b"9.9"), None),
            (health.replace(b"Host: localhost\r\n", b""), 400),
            (health.replace(b"GET", b"BREW"), 405),
            (health.replace(b"/health", b"/health%00%zz/../.."), None),
            (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), None),
        ]:
            reply = exchange(server, data)
            if wanted:
                expect(reply.startswith(b"HTTP/1.1 %d " % wanted) or (wanted > 400 and not reply), wanted, data[:90], reply[:200])
            server.is_alive()
        slow = exchange(server, post(body), pieces=1000)
        expect(slow.startswith(b"HTTP/1.1 200 "), "a byte at a time", slow[:200])
        last = health.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close")
        both = exchange(server, post(body, post(body, last)), pause=TIMEOUT)
        expect_equal(both.count(b"HTTP/1.1 200 "), 3, "requests one behind the other")
        expect(both.endswith(b'{"status":"ok"}') and both.count(b'"finish_reason":"length"') == 2, both)
        for client in open_ones:
            client.close()
        server.wait_for("active_sequences", 0)
        server.complete("And")


@case
def a_long_text_does_not_hold_up_others():
    """It takes seconds to see that it is too long for the model; meanwhile others have their replies."""
    with Server() as server:
        replies, took = [], []

        def long_text():
            began = time.monotonic()
            replies.append(server.ask("/v1/completions", {"prompt": "1 " * 2000000}))
            took.append(time.monotonic() - began)

        thread = threading.Thread(target=long_text)
        thread.start()
        most = 0.0
        while thread.is_alive():
            began = time.monotonic()
            server.is_alive()
            most = max(most, time.monotonic() - began)
        thread.join()
        expect_equal(replies[0][0], 400, replies)
        expect(most < took[0] / 2, "a reply took", most, "s while a text was read in", took[0], "s")


def is_closed(client, seconds):
    """Whether the server closes the connection within so many seconds, whatever it sends before."""
    client.settimeout(seconds)
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass
        return True
    return False


@case
def clients_have_their_time():
    """Those that do not send a whole request, or do not read the reply, do not keep their connection."""
    with Server("--client-seconds", 2, "--request-seconds", 2, "-n", 4) as server:
        body = json.dumps({"prompt": "And"}).encode()
        drip, idle, half = (socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) for _ in range(3))
        drip.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        half.sendall(post(body)[:30])
        reader = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
        reader.sendall(post({"prompt": "And", "max_tokens": 16000, "stream": True}))
        with contextlib.suppress(OSError):
            for _ in range(200):  # a byte now and then
                drip.sendall(b" ")
                time.sleep(0.1)
            expect(False, "a body a byte at a time was not cut off")
        for client in (idle, half):
            expect(is_closed(client, 20), "a connection without a request")
        server.wait_for("active_sequences", 0)
        server.complete("And")
        expect(is_closed(reader, 20), "a stream")
        for client in (drip, idle, half, reader):
            client.close()


@case
def a_server_that_is_killed():
    """Clients that wait see the end at once, and the next server can listen at the same port."""
    with Server("--parallel", 1) as server:
        ends = []

        def client(stream):
            try:
                server.ask("/v1/completions", {"prompt": "And", "max_tokens": 12000, "stream": stream})
                ends.append("a reply")
            except (OSError, http.client.HTTPException):
                ends.append("lost")

        threads = [threading.Thread(target=client, args=(stream,)) for stream in (False, True, False)]
        for thread in threads:
            thread.start()
        server.wait_for("active_sequences", 1)
        server.wait_for("queue_length", 2)
        server.process.kill()
        for thread in threads:
            thread.join(timeout=TIMEOUT)
        expect_equal(ends, ["lost"] * 3, "clients")
        server.process.wait(timeout=TIMEOUT)
        with Server(port=server.port) as again:
            again.complete("And")


OTHER_SITE = {"Host": "site.example", "Origin": "http://site.example"}


def expect_wrong(arguments, words=b""):
    command = [PROGRAM, "serve", "--model", str(DEMO), "--port", "0", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    expect_equal((result.returncode, words in result.stderr), (2, True), (arguments, result.stderr))


@case
def keys():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "key"
        path.write_text("secret\n", encoding="utf-8")
        with Server("--api-key-file", path) as server:
            server.is_alive()
            for header in (None, "Bearer secre", "Bearer secret2", "secret", "Bearer "):
                status, text = server.ask("/v1/models", headers={"Authorization": header} if header else {})
                expect_equal((status, "key" in text), (401, True), header)
            expect_equal(server.ask("/v1/models", headers={"Authorization": "Bearer secret"})[0], 200, "the key")
            expect_equal(server.ask("/v1/models", headers={"Authorization": "bearer  secret"})[0], 200, "in other words")
            expect_equal(server.ask("/v1/models", headers={"Authorization": "Bearer secret", **OTHER_SITE})[0], 200, "a proxy")
        expect_wrong(["--host", "0.0.0.0"], b"takes --api-key-file")
        for host in ("localhost", "127.x", "nowhere"):
            expect_wrong(["--host", host], b"is no address")
        for key in (b"", b"\n", b" secret\n", b"secret \n", b"s\0cret\n", b"s\xc3\xa9cret\n", b"\x80" * 32):
            path.write_bytes(key)
            expect_wrong(["--api-key-file", path])
        for key in (b"se cret", b"se cret\r\nmore", b"\xef\xbb\xbfse cret\n"):
            path.write_bytes(key)
            with Server("--api-key-file", path) as server:
                expect_equal(server.ask("/v1/models", headers={"Authorization": "Bearer se cret"})[0], 200, key)


@case
def bodies_of_clients_without_the_key_are_not_kept():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "key"
        path.write_text("secret\n", encoding="utf-8")
        with Server("--api-key-file", path) as server:
            before = resident_mb(server)
            clients = [socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) for _ in range(20)]
            for client in clients:
                client.sendall(post(b" " * (6 << 20))[:-1])
            for client in clients:
                client.sendall(b" ")
                expect(client.recv(100).startswith(b"HTTP/1.1 401"), "status")
            expect(resident_mb(server) < before + 40, "of 120 MB the server keeps", resident_mb(server) - before)
            for client in clients:
                client.close()


@case
def pages_of_other_sites():
    """Without a key a page that a browser shows on this machine cannot ask, nor over a name that leads to this machine."""
    with Server() as server:
        own = f"127.0.0.1:{server.port}"
        for headers, wanted in [
            ({}, 200),
            ({"Host": own, "Origin": f"http://{own}"}, 200),
            ({"Host": "LOCALHOST:8080", "Origin": "http://localhost:8080"}, 200),
            ({"Host": "[::1]:8080"}, 200),
            ({"Host": "0.0.0.0"}, 200),
            (OTHER_SITE, 403),
            ({"Host": "site.example"}, 403),
            ({"Host": "127.0.0.1.site.example"}, 403),
            ({"Host": "localhost.site.example:80"}, 403),
            ({"Host": "1" * 5000}, 403),
            ({"Host": ""}, 403),
            ({"Host": own, "Origin": "null"}, 403),
            ({"Host": own, "Origin": f"https://{own}"}, 403),
            ({"Host": own, "Origin": "http://127.0.0.1"}, 403),
            ({"Host": own, "Origin": f"http://{own}.site.example"}, 403),
        ]:
            for path, body in (("/v1/completions", {"prompt": "x", "max_tokens": 1}), ("/v1/models", None), ("/metrics", None)):
                status, text = server.ask(path, body, headers=headers)
                expect_equal(status, wanted, (path, headers, text[:200]))
    with Server("--allow-anonymous") as server:
        expect_equal(server.ask("/v1/models", headers=OTHER_SITE)[0], 200, "--allow-anonymous")


@case
def passes_are_events_for_who_asks():
    with Server() as server:
        whole = server.complete("And it came", flashblock={"tau": 2})
        events = server.stream("And it came", flashblock={"tau": 2, "steps": True}, stream_options={"include_usage": True})
        passes = [event["flashblock"]["pass"] for event in events if "pass" in event.get("flashblock", {})]
        expect_equal("".join(event["choices"][0]["text"] for event in events if event["choices"]), text_of(whole), "text")
        steps, commits = ([one for one in passes if one["commit"] == commit] for commit in (False, True))
        counts = events[-1]["flashblock"]
        expect_equal((len(steps), len(commits)), (counts["denoising_steps"], counts["commits"]), "passes")
        expect_equal(sum(one["action"] == "reuse" for one in passes), counts["reuses"], "reuses")
        expect(all(one["keys_read"] == (one["size"] if one["action"] == "reuse" else one["keys"]) for one in passes), "keys")
        expect(all(None not in one["tokens"] for one in commits), "a mask that is committed")
        tokens = "".join("".join(one["tokens"][one["prompt"] :]) for one in commits)
        expect(tokens.startswith(text_of(whole)), tokens)
        expect_equal((commits[-1]["end"], passes[-1]["finish_reason"]), (whole["usage"]["total_tokens"], "length"), "end")
        for one in steps:
            for i in one["accepted"]:
                expect(one["tokens"][i] == one["proposed"][i] and 0 < one["confidence"][i] <= 1, one)
        plain = server.stream("And it came", flashblock={"tau": 2})
        expect(not any("pass" in event.get("flashblock", {}) for event in plain), plain)
        status, text = server.ask("/v1/completions", {"prompt": "x", "flashblock": {"steps": True}})
        expect(status == 400 and "steps takes stream" in text, text)


@case
def the_page_is_one_file():
    with Server() as server:
        connection, response = server.open("GET", "/")
        with contextlib.closing(connection):
            text = response.read().decode()
            expect_equal(response.status, 200, text)
            expect("frame-ancestors 'none'" in response.getheader("Content-Security-Policy"), response.getheaders())
        expect(text.startswith("<!doctype html>") and "://" not in text.replace("http://www.w3.org/2000/svg", ""), "an address")
        expect_equal(server.ask("/", {"x": 1})[0], 405, "POST")
        (model,) = json.loads(server.ask("/v1/models")[1])["data"]
        own = {"chat": True, "tau": 2, "block_size": 4, "max_tokens": 16, "num_layers": 8, "num_heads": 6}
        expect_equal(model["flashblock"], own, "what the page has to know")


@case
def curl_lines_of_the_page():
    """Each line of docs/serve.md that asks with curl has a reply."""
    page = pathlib.Path(os.environ["FLASHBLOCK_SOURCE_ROOT"]) / "docs" / "serve.md"
    lines = re.findall(r"^    (curl .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    expect(len(lines) >= 4, lines)
    with Server() as server:
        for line in lines:
            if not shutil.which("curl"):
                print("# no curl")
                break
            command = line.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
            told = subprocess.run(["sh", "-c", command + " -sS --fail-with-body"], capture_output=True, timeout=TIMEOUT, check=False)
            expect(told.returncode == 0 and told.stdout, line, told)


@case
def a_model_without_a_chat_completes_texts():
    with Server() as server:
        path = pathlib.Path(server.folder.name) / "model" / "chat_template.jinja"
        path.write_text("{{ bos_token }}", encoding="utf-8")
        command = [PROGRAM, "serve", "--model", str(path.parent), "--port", "0", "-n", "8"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            server.port = int(re.search(rb":(\d+)/", process.stdout.readline())[1])
            server.complete("And")
            status, text = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
            expect(status == 400 and "bos_token" in text, text)
            process.kill()


sys.exit(run_cases())
