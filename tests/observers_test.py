"""Observers that misbehave: a storm of scrapes, clients of the console's map that never read, and requests whose text
would make a label. What is served meanwhile does not change, and memory stays bounded."""
import http.client
import socket
import threading
import time
import unittest
import urllib.request

from conclave_test_lib import DEMO_MODEL, Cluster, Gateway, eventually
from http_client import Client

STORM = 100
GROWTH_BYTES_MAX = 64 << 20


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as reply:
        return reply.read().decode()


def series(text):
    """The names of its time series with their labels."""
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if line and not line.startswith("#")}


class Observers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        every = "per-expert-metrics=true"
        cls.cluster = Cluster("--model", DEMO_MODEL, "--shards", 2, "--http-port", 0, "--router-flags", every,
                              "--expert-flags", every, "--gateway-flags", "http-write-timeout=2s")
        cls.client = Client(cls.cluster.http())

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def ids(self):
        """The answer to one question, which nothing may change."""
        answer = self.client.complete(max_tokens=48, ignore_eos=True, hash_logits=True)
        self.assertEqual(answer.status, 200)
        return answer.json()["choices"][0]["logits_hash"]

    def test_a_storm_of_scrapes_disturbs_nobody(self):
        expected = self.ids()
        processes = self.cluster.processes()
        before = {p["pid"]: resident_bytes(p["pid"]) for p in processes}
        answered, refused = [], []

        def storm(address):
            try:
                answered.append(len(scrape(address)))
            except (OSError, http.client.HTTPException):  # more than the port takes at once
                refused.append(address)

        threads = [threading.Thread(target=storm, args=(p["metrics"],)) for p in processes for _ in range(STORM)]
        for thread in threads:
            thread.start()
        self.assertEqual(self.ids(), expected)
        for thread in threads:
            thread.join()
        self.assertGreater(len(answered), len(processes))
        for process in processes:
            self.assertIn("conclave_", scrape(process["metrics"]), "it answers again")
            self.assertLess(resident_bytes(process["pid"]) - before[process["pid"]], GROWTH_BYTES_MAX, process["name"])

    def test_clients_of_the_map_that_never_read_hold_no_memory_and_are_cut_off(self):
        expected = self.ids()
        gateway = self.cluster.processes("gateway")[0]
        before = resident_bytes(gateway["pid"])
        # As many requests at once as the server takes from a client that reads none of the answers.
        request = self.client.request("GET", "/experts") * 500
        sockets = []
        for _ in range(20):
            sleeper = socket.create_connection(self.cluster.http(), timeout=30)
            sleeper.setblocking(False)
            sockets.append(sleeper)
        begin, left = time.monotonic(), {sleeper: request * 4 for sleeper in sockets}
        while time.monotonic() - begin < 1.5:
            for sleeper in sockets:
                try:
                    left[sleeper] = left[sleeper][sleeper.send(left[sleeper]):] or request
                except (BlockingIOError, ConnectionError):
                    pass
            time.sleep(0.01)
        self.assertEqual(self.ids(), expected)
        self.assertLess(resident_bytes(gateway["pid"]) - before, GROWTH_BYTES_MAX)

        def cut_off(sleeper):
            try:
                sleeper.send(b"G")
                return False
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        self.assertTrue(eventually(lambda: all(cut_off(sleeper) for sleeper in sockets), 30))
        for sleeper in sockets:
            sleeper.close()
        self.assertEqual(self.client.get("/experts").status, 200)

    def test_nothing_of_a_request_becomes_a_label(self):
        self.ids()
        gateway = self.cluster.processes("gateway")[0]["metrics"]
        router = self.cluster.processes("router")[0]["metrics"]
        before = series(scrape(gateway)) | series(scrape(router))
        for number in range(5):
            odd = f"zqx{number}"
            self.client.complete(max_tokens=1, model=odd)
            self.client.complete(max_tokens=1, user=odd, metadata={odd: odd})
            self.client.post(f"/{odd}", {})
            self.client.get(f"/v1/models/{odd}")
            self.client.raw(f"{odd.upper()} / HTTP/1.1\r\nHost: {odd}\r\nConnection: close\r\n\r\n".encode())
            self.client.post("/v1/completions", {"prompt": odd, "max_tokens": 1}, headers={
                "X-Request-Id": odd, "Authorization": f"Bearer {odd}", "User-Agent": odd, "traceparent": odd})
        after = scrape(gateway) + scrape(router)
        self.assertNotIn("zqx", after.lower())
        # The hottest experts come and go.
        grown = {name for name in series(after) - before if not name.startswith("conclave_router_hot_expert")}
        self.assertEqual(grown, set())

    def test_the_map_needs_a_key_where_keys_are_asked_for_and_takes_nothing(self):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            for path in ("/experts", "/", "/console.js"):
                self.assertEqual(self.client.raw(self.client.request(method, path)).status, 405, (method, path))
        with open(f"{self.cluster.run_dir}/keys.yaml", "w") as file:
            file.write("tenants: []\n")
        guarded = Gateway(self.cluster, "--api-keys", file.name)
        try:
            for path, status in (("/experts", 401), ("/v1/models", 401), ("/", 200)):
                self.assertEqual(Client(guarded.http()).get(path).status, status, path)
        finally:
            guarded.stop()


if __name__ == "__main__":
    unittest.main()
