"""HTTP by hand, for tests that send what no library would: raw sockets, and answers taken apart."""
import json
import socket


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]

    def events(self):
        """The data of a stream's events, parsed but for [DONE]; comments are left out."""
        found = []
        for event in self.body.decode().split("\n\n"):
            if event.startswith("data: "):
                data = event[len("data: "):]
                found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Connection:
    """One connection; `timeout` bounds every read."""

    def __init__(self, address, timeout=30):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def read(self, size=65536):
        """More bytes; empty where the server has closed."""
        try:
            return self.socket.recv(size)
        except ConnectionResetError:
            return b""

    def read_until(self, mark):
        while mark not in self.buffer:
            more = self.read()
            if not more:
                raise EOFError(f"closed before {mark!r}; got {self.buffer[-300:]!r}")
            self.buffer += more
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def read_exactly(self, size):
        while len(self.buffer) < size:
            more = self.read()
            if not more:
                raise EOFError(f"closed after {len(self.buffer)} of {size} bytes")
            self.buffer += more
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def read_head(self):
        lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        return int(lines[0].split()[1]), headers

    def read_answer(self, head_only=False):
        return self.read_body(*self.read_head(), head_only)

    def read_body(self, status, headers, head_only=False):
        body = b""
        if head_only or status in (100, 204):
            pass
        elif "content-length" in headers:
            body = self.read_exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(self.read_until(b"\r\n"), 16)
                body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
                if size == 0:
                    break
        else:
            while more := self.read():
                self.buffer += more
            body, self.buffer = self.buffer, b""
        return Answer(status, headers, body)

    def is_closed(self):
        """Waits for the server to close; what it still sends is dropped."""
        while more := self.read():
            self.buffer += more
        return True


class Client:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, address, key=None):
        self.address, self.key = address, key

    def head(self, method, path, headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        lines += [f"{name}: {value}" for name, value in dict(headers).items()]
        return "\r\n".join(lines) + "\r\n"

    def request(self, method, path, body=b"", headers=()):
        if isinstance(body, str):
            body = body.encode()
        head = self.head(method, path, headers)
        if method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    def raw(self, data, timeout=30):
        """Sends bytes as they are and reads one answer. A server may refuse before all has been taken."""
        with Connection(self.address, timeout) as connection:
            try:
                connection.send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return connection.read_answer()

    def get(self, path, headers=()):
        return self.raw(self.request("GET", path, headers=headers))

    def post(self, path, body, headers=(), timeout=60):
        if not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        return self.raw(self.request("POST", path, body, headers), timeout)

    def complete(self, **fields):
        return self.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, **fields})

    def chat(self, text="Who are you?", **fields):
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0, **fields})
