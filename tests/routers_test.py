"""Several attention services: one that dies, hangs or returns under load costs no stream and no bit."""
import concurrent.futures
import os
import signal
import socket
import subprocess
import unittest
import urllib.request

from conclave_test_lib import (DEMO_MODEL, Cluster, clean_environment, command_line_of, eventually, generate, is_alive)

PROMPTS = ["Once upon a time", "def quicksort(", "The theorem of Pythagoras", "2 + 2 =", "什么是", "Who are you?",
           "In the beginning", "import os"]


def metrics(process):
    with urllib.request.urlopen(f"http://{process['metrics']}/metrics", timeout=10) as page:
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                for line in page.read().decode().splitlines() if line and not line.startswith("#")}


def hold(address):
    """A socket that keeps the address of a process that was killed a moment ago: bound, so that the system gives its
    port to nobody, and not listening, so that the process's successor may."""
    host, port = address.rsplit(":", 1)
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def bound():
        try:
            return holder.bind((host, int(port))) is None
        except OSError:  # the process is still being taken down
            return False
    assert eventually(bound), address
    return holder


def ask(cluster, number, tokens):
    """One long answer, sampled for odd numbers."""
    sampling = ["--temperature", 0.9, "--seed", number] if number % 2 else []
    answer = generate("--gateway", cluster.gateway(), "--prompt", PROMPTS[number % len(PROMPTS)],
                      "--max-tokens", tokens, "--ignore-eos", "--hash-logits", *sampling)
    return {key: answer[key] for key in ("ids", "text", "finish_reason", "logits_hash")}


class RoutersTest(unittest.TestCase):
    TOKENS, STREAMS = 400, 8

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--shards", 2, "--routers", 2, "--compute", "f32")
        with concurrent.futures.ThreadPoolExecutor(cls.STREAMS) as pool:
            cls.undisturbed = list(pool.map(lambda i: ask(cls.cluster, i, cls.TOKENS), range(cls.STREAMS)))

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def gateway_says(self, name):
        return metrics(self.cluster.processes("gateway")[0]).get(name, 0.0)

    def is_up(self, router):
        return self.gateway_says(f'conclave_gateway_router_up{{router="{router["grpc"]}"}}') == 1

    def busiest(self, tokens=50):
        """The attention service with the most streams now, once both have some that are on their way."""
        routers, generated = self.cluster.processes("router"), "conclave_gateway_generated_tokens_total"
        load = lambda router: self.gateway_says(f'conclave_gateway_router_load{{router="{router["grpc"]}"}}')
        before = self.gateway_says(generated)
        self.assertTrue(eventually(lambda: self.gateway_says(generated) > before + tokens * self.STREAMS and
                                   all(load(router) >= 1 for router in routers)), "the load is not shared")
        return max(routers, key=load)

    def test_1_a_hung_service_costs_no_stream_and_is_used_again_when_it_goes_on(self):
        resumed = self.gateway_says("conclave_gateway_streams_resumed_total")
        with concurrent.futures.ThreadPoolExecutor(self.STREAMS) as pool:
            answers = [pool.submit(ask, self.cluster, i, self.TOKENS) for i in range(self.STREAMS)]
            victim = self.busiest()
            os.kill(victim["pid"], signal.SIGSTOP)
            try:
                self.assertEqual([answer.result(timeout=120) for answer in answers], self.undisturbed)
            finally:
                os.kill(victim["pid"], signal.SIGCONT)
        self.assertGreater(self.gateway_says("conclave_gateway_streams_resumed_total"), resumed)
        self.assertTrue(eventually(lambda: self.is_up(victim)))

    def test_2_a_killed_service_costs_no_stream_and_is_used_again_when_it_returns(self):
        resumed = self.gateway_says("conclave_gateway_streams_resumed_total")
        with concurrent.futures.ThreadPoolExecutor(self.STREAMS) as pool:
            answers = [pool.submit(ask, self.cluster, i, self.TOKENS) for i in range(self.STREAMS)]
            victim = self.busiest()
            command = command_line_of(victim["pid"])
            os.kill(victim["pid"], signal.SIGKILL)
            self.addCleanup(hold(victim["grpc"]).close)
            self.assertEqual([answer.result(timeout=120) for answer in answers], self.undisturbed)
        self.assertGreater(self.gateway_says("conclave_gateway_streams_resumed_total"), resumed)
        self.assertTrue(eventually(lambda: "goes on without one of its processes" in
                                   self.cluster.text(self.cluster.errors)))
        self.assertFalse(self.is_up(victim))
        self.assertEqual(ask(self.cluster, 0, self.TOKENS), self.undisturbed[0], "one service is enough")

        kept = [a for a in command if not a.startswith(("--grpc-address", "--address-file"))]
        returned = subprocess.Popen([*kept, f"--grpc-address={victim['grpc']}"], env=clean_environment(),
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.assertTrue(eventually(lambda: self.is_up(victim), 60))
            with concurrent.futures.ThreadPoolExecutor(self.STREAMS) as pool:
                answers = [pool.submit(ask, self.cluster, i, self.TOKENS) for i in range(self.STREAMS)]
                self.busiest()
                self.assertEqual([answer.result(timeout=120) for answer in answers], self.undisturbed)
        finally:
            returned.terminate()
            self.assertEqual(returned.wait(timeout=60), 0)
        self.assertTrue(is_alive(self.cluster.process.pid))


if __name__ == "__main__":
    unittest.main()
