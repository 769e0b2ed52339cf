"""Shards are killed, stopped, slowed, cut off, damaged and restarted under load: every stream ends with the text of the
undisturbed run. The longest gap between two pieces of a stream is printed; it fails the test only beyond any doubt."""
import os
import random
import signal
import threading
import time
import unittest

from chaos_lib import PROMPTS, Cluster, Namespaces, Relay, ask, namespaces_work, run_streams
from conclave_test_lib import FULL, eventually

TOKENS = 96
SEEDS = 100 if FULL else 5
GAP_SECONDS_MAX = 10  # a bound on liveness: busy machines stall streams without our doing


class ChaosTest(unittest.TestCase):
    def undisturbed(self, cluster, tokens=TOKENS):
        texts, errors, gap = run_streams(cluster, tokens, lambda: None)
        self.assertEqual(errors, [])
        self.assertTrue(all(len(text) > tokens // 2 for text in texts), texts)
        print(f"  undisturbed: longest gap {gap * 1000:.0f} ms")
        return texts

    def disturbed(self, cluster, expected, what, action, tokens=TOKENS):
        texts, errors, gap = run_streams(cluster, tokens, action)
        print(f"  {what}: longest gap {gap * 1000:.0f} ms")
        self.assertEqual(errors, [], cluster.log("router")[-3000:])
        self.assertEqual(texts, expected, what)
        self.assertLess(gap, GAP_SECONDS_MAX, cluster.log("router")[-3000:])
        return gap


class ReplicatedTest(ChaosTest):
    """Every expert on two of four shards."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(shards=4, replicas=2)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def test_a_killed_shard_costs_no_answer(self):
        expected = self.undisturbed(self.cluster)
        gaps = []
        for seed in range(SEEDS):
            chance = random.Random(seed)
            victim = chance.randrange(4)
            pause = chance.random() * 0.5
            def kill():
                time.sleep(pause)
                self.cluster.kill(victim)
            gaps.append(self.disturbed(self.cluster, expected, f"kill -9 expert-{victim} after {pause:.2f} s", kill))
            self.cluster.restart(victim)
            self.cluster.wait_until_back(victim)
        print(f"  {SEEDS} kills: longest gap {max(gaps) * 1000:.0f} ms, {sum(g > 1 for g in gaps)} above 1 s")

    def test_a_stopped_shard_costs_no_answer(self):
        expected = self.undisturbed(self.cluster)
        try:
            self.disturbed(self.cluster, expected, "SIGSTOP expert-1", lambda: self.cluster.kill(1, signal.SIGSTOP))
        finally:
            self.cluster.kill(1, signal.SIGCONT)
        self.cluster.wait_until_back(1)

    def test_a_slow_shard_costs_no_answer(self):
        expected = self.undisturbed(self.cluster)
        end = threading.Event()
        def crawl():  # runs a tenth of the time
            while not end.is_set():
                self.cluster.kill(2, signal.SIGSTOP)
                time.sleep(0.018)
                self.cluster.kill(2, signal.SIGCONT)
                time.sleep(0.002)
        slowing = threading.Thread(target=crawl)
        try:
            self.disturbed(self.cluster, expected, "expert-2 ten times slower", slowing.start)
        finally:
            end.set()
            slowing.join()

    def test_all_shards_restart_one_by_one_under_load(self):
        expected = self.undisturbed(self.cluster)
        over = threading.Event()
        def roll():
            for victim in range(4):
                self.cluster.kill(victim, signal.SIGTERM)
                self.cluster.restart(victim)
                self.cluster.wait_until_back(victim)
            over.set()
        rolling = threading.Thread(target=roll, daemon=True)
        rolling.start()
        rounds = 0
        while not over.is_set() or rounds == 0:
            self.disturbed(self.cluster, expected, "rolling restart", lambda: None)
            rounds += 1
        rolling.join()


class SingleCopyTest(ChaosTest):
    """Every expert on one shard."""

    def test_experts_of_a_killed_shard_are_reloaded_elsewhere(self):
        with Cluster(shards=4) as cluster:
            expected = self.undisturbed(cluster)
            self.disturbed(cluster, expected, "kill -9 of the only holder", lambda: cluster.kill(3))
            self.assertGreater(cluster.metric("conclave_router_expert_reloads_total"), 0)
            self.disturbed(cluster, expected, "afterwards", lambda: None)

    def test_all_shards_killed_fails_in_time_and_heals_without_a_restart(self):
        with Cluster(shards=2, router_flags=["--expert-timeout=2s"]) as cluster:
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


class DamagedTest(ChaosTest):
    def test_damaged_activations_are_noticed_and_sent_again(self):
        relays = []
        def via(i, address):
            relays.append(Relay(address, i))
            return relays[-1].address
        with Cluster(shards=3, replicas=2, via=via) as cluster:
            expected = self.undisturbed(cluster)
            def damage():
                relays[1].damage = 0.05
            self.disturbed(cluster, expected, "one in twenty large pieces of expert-1 damaged", damage)
            print(f"  {relays[1].damaged} pieces damaged, "
                  f"{cluster.metric('conclave_router_expert_resends_total'):.0f} calls sent again")
            self.assertGreater(relays[1].damaged, 0)


@unittest.skipUnless(namespaces_work(), "SKIPPED: network namespaces need root, ip and nft: no partition, no packet loss")
class NetworkTest(ChaosTest):
    """Each shard in a network namespace of its own; every expert on two of three."""

    @classmethod
    def setUpClass(cls):
        cls.namespaces = Namespaces(3)
        try:
            cls.cluster = Cluster(shards=3, replicas=2, hosts=cls.namespaces.hosts)
        except BaseException:
            cls.namespaces.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()
        cls.namespaces.close()

    def check(self, what, shards, hook, rule):
        expected = self.undisturbed(self.cluster)
        def cut():
            for i in shards:
                self.namespaces.rule(i, hook, rule)
        try:
            self.disturbed(self.cluster, expected, what, cut)
        finally:
            for i in shards:
                self.namespaces.heal(i)
        for i in shards:
            self.cluster.wait_until_back(i)

    def test_a_shard_that_hears_nothing(self):
        self.check("nothing reaches expert-0", [0], "input", "drop")

    def test_a_shard_that_nobody_hears(self):
        self.check("nothing comes from expert-1", [1], "output", "drop")

    def test_one_packet_in_a_hundred_lost(self):
        self.check("1% of packets lost at every shard", [0, 1, 2], "input", "numgen random mod 1000 < 10 drop")


if __name__ == "__main__":
    unittest.main()
