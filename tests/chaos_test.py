"""Shards are killed, stopped, slowed, cut off, damaged and restarted under load, and so are the services before them:
every stream ends with the ids, the text and the logits of the undisturbed run, which is the same for every cluster
here. The longest gap between two pieces of a stream is printed; it fails the test only beyond any doubt.

With CONCLAVE_TEST_DEVICE on a GPU (CONCLAVE_TEST_SHARD_DEVICE: the shards on another one; CONCLAVE_TEST_COMPUTE: in
which numbers; CONCLAVE_TEST_TRANSPORTS: over which of grpc,ucx,nccl; several processes on one GPU need MPS to be
fast)."""
import random
import signal
import threading
import time
import unittest

from chaos_lib import PROMPTS, Cluster, Namespaces, Relay, ask, namespaces_work, run_streams
from conclave_test_lib import DEVICE, FULL, TRANSPORTS, eventually

TOKENS = 160 if DEVICE == "cpu" else 800  # a second or two
SEEDS = 100 if FULL else 5
GAP_SECONDS_MAX = 10  # a bound on liveness: busy machines stall streams without our doing


def skip_unless_asked(transport):
    if transport not in TRANSPORTS:
        raise unittest.SkipTest(f"CONCLAVE_TEST_TRANSPORTS does not name {transport}")
    if transport == "nccl" and DEVICE == "cpu":
        raise unittest.SkipTest("nccl needs GPUs: CONCLAVE_TEST_DEVICE=cuda")


class ChaosTest(unittest.TestCase):
    expected = None  # of all clusters: neither shards, replicas nor transport may show in an answer

    def undisturbed(self, cluster):
        answers, errors, gap = run_streams(cluster, TOKENS, lambda: None)
        self.assertEqual(errors, [])
        self.assertTrue(all(len(ids) == TOKENS and logits for ids, _, logits in answers), answers)
        ChaosTest.expected = ChaosTest.expected or answers
        self.assertEqual(answers, ChaosTest.expected)
        print(f"  undisturbed: longest gap {gap * 1000:.0f} ms")

    def disturbed(self, cluster, what, action):
        answers, errors, gap = run_streams(cluster, TOKENS, action)
        print(f"  {what}: longest gap {gap * 1000:.0f} ms")
        self.assertEqual(errors, [], cluster.log("router")[-3000:])
        self.assertEqual(answers, ChaosTest.expected, what)
        self.assertLess(gap, GAP_SECONDS_MAX, cluster.log("router")[-3000:])
        return gap


class ReplicatedTest(ChaosTest):
    """Every expert on two of four shards."""
    TRANSPORT = "grpc"

    @classmethod
    def setUpClass(cls):
        skip_unless_asked(cls.TRANSPORT)
        print(f"\n  every expert on two of four shards, over {cls.TRANSPORT}")
        cls.cluster = Cluster(shards=4, replicas=2, transport=cls.TRANSPORT)
        cls().undisturbed(cls.cluster)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def test_a_killed_shard_costs_no_answer(self):
        gaps = []
        for seed in range(SEEDS):
            chance = random.Random(seed)
            victim = chance.randrange(4)
            pause = chance.random() * 0.5
            def kill():
                time.sleep(pause)
                self.cluster.kill(victim)
            gaps.append(self.disturbed(self.cluster, f"kill -9 expert-{victim} after {pause:.2f} s", kill))
            self.cluster.restart(victim)
            self.cluster.wait_until_back(victim)
        print(f"  {SEEDS} kills: longest gap {max(gaps) * 1000:.0f} ms, {sum(g > 1 for g in gaps)} above 1 s")

    def test_a_stopped_shard_costs_no_answer(self):
        try:
            self.disturbed(self.cluster, "SIGSTOP expert-1", lambda: self.cluster.kill(1, signal.SIGSTOP))
        finally:
            self.cluster.kill(1, signal.SIGCONT)
        # What it answers now is late by seconds, and nobody's any more.
        self.cluster.wait_until_back(1)
        self.disturbed(self.cluster, "expert-1 goes on", lambda: None)

    def test_a_slow_shard_costs_no_answer(self):
        end = threading.Event()
        def crawl():  # runs a tenth of the time
            while not end.is_set():
                self.cluster.kill(2, signal.SIGSTOP)
                time.sleep(0.018)
                self.cluster.kill(2, signal.SIGCONT)
                time.sleep(0.002)
        slowing = threading.Thread(target=crawl)
        try:
            self.disturbed(self.cluster, "expert-2 ten times slower", slowing.start)
        finally:
            end.set()
            slowing.join()
        hedges, wins = (self.cluster.metric(f"conclave_router_expert_hedge{name}_total") for name in ("s", "_wins"))
        print(f"  hedges so far: {hedges:.0f}; of their calls brought rows first: {wins:.0f}")

    def test_all_shards_restart_one_by_one_under_load(self):
        over = threading.Event()
        codes = []
        def roll():
            for victim in range(4):
                self.cluster.kill(victim, signal.SIGTERM)
                codes.append(self.cluster.restart(victim))
                self.cluster.wait_until_back(victim)
            over.set()
        rolling = threading.Thread(target=roll, daemon=True)
        rolling.start()
        while not over.is_set():
            self.disturbed(self.cluster, "rolling restart", lambda: None)
        rolling.join()
        self.assertEqual(codes, [0, 0, 0, 0], "a shard that is told to end finishes what it runs")

    def test_services_told_to_end_finish_their_streams(self):
        for name in ("router", "gateway"):
            process = self.cluster.processes[name]
            self.disturbed(self.cluster, f"SIGTERM to the {name}", process.terminate)
            self.assertEqual(process.wait(timeout=60), 0, self.cluster.log(name)[-3000:])
            self.cluster.launch(name)
            self.assertTrue(eventually(lambda: ask(self.cluster, "x", 1)[0] == 0, 60), self.cluster.log(name)[-3000:])


class ReplicatedOverUcxTest(ReplicatedTest):
    TRANSPORT = "ucx"


class ReplicatedOverNcclTest(ReplicatedTest):
    TRANSPORT = "nccl"


class SingleCopyTest(ChaosTest):
    """Every expert on one shard."""
    TRANSPORT = "grpc"

    @classmethod
    def setUpClass(cls):
        skip_unless_asked(cls.TRANSPORT)

    def test_experts_of_a_killed_shard_are_reloaded_elsewhere(self):
        with Cluster(shards=4, transport=self.TRANSPORT) as cluster:
            self.undisturbed(cluster)
            self.disturbed(cluster, "kill -9 of the only holder", lambda: cluster.kill(3))
            self.assertGreater(cluster.metric("conclave_router_expert_reloads_total"), 0)
            self.disturbed(cluster, "afterwards", lambda: None)

    def test_all_shards_killed_fails_in_time_and_heals_without_a_restart(self):
        with Cluster(shards=2, transport=self.TRANSPORT, router_flags=["--expert-timeout=2s"]) as cluster:
            code, expected, _ = ask(cluster, PROMPTS[0], 16)
            self.assertEqual(code, 0)
            for victim in (0, 1):
                cluster.kill(victim)
            begin = time.monotonic()
            code, _, error = ask(cluster, PROMPTS[0], 16)
            took = time.monotonic() - begin
            print(f"  all shards gone: refused after {took:.1f} s of 2 s: {error.strip()}")
            self.assertEqual(code, 1)
            self.assertRegex(error, r"layer \d+ expert \d+")
            self.assertLess(took, 30)
            cluster.restart(1)
            self.assertTrue(eventually(lambda: ask(cluster, PROMPTS[0], 16)[:2] == (0, expected), 60),
                            cluster.log("router")[-3000:])


class SingleCopyOverUcxTest(SingleCopyTest):
    TRANSPORT = "ucx"


class SingleCopyOverNcclTest(SingleCopyTest):
    TRANSPORT = "nccl"


class DamagedTest(ChaosTest):
    def test_damaged_activations_are_noticed_and_sent_again(self):
        relays = []
        def via(addresses):
            relays.append(Relay(addresses))
            return relays[0].addresses
        with Cluster(shards=3, replicas=2, via=via) as cluster, relays[0] as relay:
            self.undisturbed(cluster)
            # Seen by request and reply alike: a row, an index and a shape are damaged, and no request pays for it.
            rounds = 20 if FULL else 2
            for _ in range(rounds):
                self.disturbed(cluster, "one in twenty large pieces of expert-1 damaged", lambda: relay.damage(1, 0.05))
            damaged = relay.damaged(1)
            print(f"  {damaged} pieces damaged, "
                  f"{cluster.metric('conclave_router_expert_resends_total'):.0f} calls sent again")
            self.assertGreater(damaged, 0)


class NetworkTest(ChaosTest):
    """Each shard in a network namespace of its own; every expert on two of three."""
    TRANSPORT = "grpc"

    @classmethod
    def setUpClass(cls):
        if not namespaces_work():
            raise unittest.SkipTest(
                "SKIPPED: network namespaces need root, ip and nft: no partition, no packet loss")
        print(f"\n  every expert on two of three shards, each in its own network, over {cls.TRANSPORT}")
        cls.namespaces = Namespaces(3)
        cls.addClassCleanup(cls.namespaces.close)
        cls.cluster = Cluster(shards=3, replicas=2, transport=cls.TRANSPORT, hosts=cls.namespaces.hosts)
        cls.addClassCleanup(cls.cluster.__exit__)
        cls().undisturbed(cls.cluster)

    def check(self, what, shards, hook, rule):
        def cut():
            for i in shards:
                self.namespaces.rule(i, hook, rule)
        try:
            self.disturbed(self.cluster, what, cut)
        finally:
            for i in shards:
                self.namespaces.heal(i)
        for i in shards:
            self.cluster.wait_until_back(i)

    def test_a_shard_that_hears_nothing(self):
        self.check("nothing reaches expert-0", [0], "input", "drop")

    def test_a_shard_that_nobody_hears(self):
        self.check("nothing comes from expert-1", [1], "output", "drop")

    def test_damaged_packets_are_noticed_and_their_rows_sent_again(self):
        # A byte behind all headers; the virtual link lets it pass, as one time in 65,536 any link does.
        before = self.cluster.metric("conclave_router_expert_resends_total")
        self.check("one large packet in fifty for expert-2 damaged", [2], "input",
                   "meta length > 1000 numgen random mod 1000 < 20 @th,1920,8 set 0x5a")
        again = self.cluster.metric("conclave_router_expert_resends_total") - before
        print(f"  {again:.0f} calls sent again")

    def test_one_packet_in_a_hundred_lost(self):
        self.check("1% of packets lost at every shard", [0, 1, 2], "input", "numgen random mod 1000 < 10 drop")


class NetworkOverUcxTest(NetworkTest):
    TRANSPORT = "ucx"


if __name__ == "__main__":
    unittest.main()
