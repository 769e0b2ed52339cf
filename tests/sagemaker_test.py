"""The entry point of the SageMaker image, without Docker: /ping says 503 until the model is loaded, then 200;
/invocations answers; SIGTERM ends it with 0; a process that dies ends it with an error."""
import json
import os
import signal
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from conclave_test_lib import DEMO_MODEL, children_of, clean_environment, eventually, free_port

BINARIES = os.environ.get("CONCLAVE_BINARIES", "bazel-bin")


class Container:
    """deploy/sagemaker/serve on loopback, with the binaries in one folder as in the image."""

    def __init__(self, folder):
        self.port = free_port()
        for name in ("gateway/gateway", "router_service/router_service"):
            os.symlink(os.path.realpath(os.path.join(BINARIES, name)), os.path.join(folder, os.path.basename(name)))
        self.process = subprocess.Popen(["deploy/sagemaker/serve"], env=clean_environment(
            CONCLAVE_BINARY_DIR=folder, SM_MODEL_DIR=DEMO_MODEL, SAGEMAKER_BIND_TO_PORT=str(self.port),
            CONCLAVE_HTTP_HOST="127.0.0.1", CONCLAVE_ROUTER_PORT=str(free_port())), stderr=subprocess.DEVNULL)

    def request(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data,
                                         {"Content-Type": "application/json"} if data else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None


class SageMaker(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.container = Container(folder.name)
        self.addCleanup(lambda: self.container.process.poll() is None and self.container.process.kill())
        seen = set()
        ready = eventually(lambda: seen.add(self.container.request("/ping")[0]) or 200 in seen, 60)
        self.assertTrue(ready, seen)
        self.assertLessEqual(seen, {0, 503, 200})

    def test_it_answers_invocations_and_ends_well(self):
        status, answer = self.container.request("/invocations", {
            "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8})
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["usage"]["completion_tokens"], 8)
        status, answer = self.container.request("/invocations", {"messages": []})
        self.assertEqual(status, 400)
        self.assertIn("messages", answer["error"]["message"])
        self.container.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.container.process.wait(timeout=60), 0)

    def test_a_process_that_dies_ends_the_container(self):
        for child in children_of(self.container.process.pid):
            os.kill(child, signal.SIGKILL)
            break
        self.assertEqual(self.container.process.wait(timeout=60), 1)


if __name__ == "__main__":
    unittest.main()
