"""A server of OpenAI's completions that misbehaves as it is told, for tests of clients. Python's standard library."""
import http.server
import json
import socket
import threading


class FakeServer:
    """Answers the requests for completions in turn by what `script` says, and then from its beginning again:
    "ok", "refuse" (429, Retry-After: 2), "error" (an event in mid-stream), "cut" (the connection ends in mid-stream),
    "short" (the stream ends without [DONE]), "fail" (500), "hang"."""

    def __init__(self, script):
        self.script, self.requests, self.lock = script, [], threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.answer(200, {"object": "list", "data": [{"id": "fake"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/tokenize":
                    return self.answer(200, {"tokens": list(range(100, 200))})
                with outer.lock:
                    fate = outer.script[len(outer.requests) % len(outer.script)]
                    outer.requests.append(body)
                self.complete(fate, body)

            def answer(self, status, body, **headers):
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def complete(self, fate, body):
                if fate == "refuse":
                    return self.answer(429, {"error": {"message": "full", "type": "rate_limit_exceeded"}},
                                       Retry_After="2")
                if fate == "fail":
                    return self.answer(500, {"error": {"message": "broken", "type": "server_error"}})
                if fate == "hang":
                    return outer.hanging.wait(60)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for _ in range(body["max_tokens"] if fate == "ok" else 2):
                    self.event({"choices": [{"index": 0, "text": "x", "finish_reason": None}]})
                if fate == "cut":
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return None
                if fate == "error":
                    self.event({"error": {"message": "lost an expert", "type": "server_error"}})
                if fate == "ok":
                    self.event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
                    self.event({"choices": [], "usage": {"prompt_tokens": len(body["prompt"]),
                                                         "completion_tokens": body["max_tokens"]}})
                    self.chunk(b"data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")

            def event(self, body):
                self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

            def chunk(self, data):
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

        self.hanging = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.hanging.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
