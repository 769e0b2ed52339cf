"""Shards, attention services and gateways come and go while requests run: nobody is restarted for it, nothing fails,
and answers keep their ids and their logits. Found by a DNS name where this user may give a process its own hosts, and
by a list in a file."""
import re
import unittest

from chaos_lib import PROMPTS
from conclave_test_lib import FULL, eventually
from elastic_lib import ElasticCluster, Load, Stream, names_work

TOKENS = 24


def shard_rows(cluster, router):
    """Rows answered, by the names of the shards that the router counts as up."""
    text = cluster.metrics(router)
    up = set(re.findall(r'^conclave_router_shard_up\{shard="([^"]+)"\} 1', text, re.M))
    rows = dict(re.findall(r'^conclave_router_shard_rows_total\{shard="([^"]+)"\} (\S+)', text, re.M))
    return {name: float(rows.get(name, 0)) for name in up}


class Scaling(unittest.TestCase):
    def scale(self, by_name):
        with ElasticCluster(shards=2, shares=2, by_name=by_name) as cluster:
            with Load(cluster, PROMPTS[:4], TOKENS, threads=3) as load:
                load.wait_for(3)
                # Two more shards, each with a slice of both shares, and one more attention service.
                for i in (2, 3):
                    cluster.add("expert", i)
                cluster.add("router", 1)
                for name in ("expert-2", "expert-3"):
                    cluster.wait_until_ready(name)
                cluster.publish()
                everybody = {f"expert-{i}" for i in range(4)}
                self.assertTrue(eventually(lambda: set(shard_rows(cluster, "router-0")) == everybody, 30),
                                cluster.log("router-0"))
                load.wait_for(4)
                rows = shard_rows(cluster, "router-0")
                self.assertTrue(all(rows[name] > 0 for name in everybody), rows)
                cluster.wait_until_used(1)
                # And back again: first nobody is told of them any more, then they end.
                cluster.publish(expert=(2, 3), router=(0,))
                load.wait_for(2)
                for role, i in (("expert", 2), ("expert", 3), ("router", 0)):
                    self.assertEqual(cluster.stop(role, i), 0, cluster.log(f"{role}-{i}"))
                both = {"expert-0", "expert-1"}
                self.assertTrue(eventually(lambda: set(shard_rows(cluster, "router-1")) == both, 30),
                                cluster.log("router-1"))
                load.wait_for(4)
                # What has gone is shown no more.
                self.assertNotIn('shard="expert-3"} 0', "".join(
                    line for line in cluster.metrics("router-1").splitlines() if "shard_up" in line))
                self.assertTrue(eventually(
                    lambda: len(re.findall(r"^conclave_gateway_router_up", cluster.metrics("gateway-0"), re.M)) == 1,
                    30))
            self.assertEqual(load.failures, [])
            self.assertGreater(load.answers, 12)

    def test_pods_come_and_go_under_load(self):
        if not names_work():
            print("skipped: no mount namespaces for this user: a list in a file stands in for the DNS name")
        self.scale(by_name=names_work())

    @unittest.skipUnless(FULL or not names_work(), "with --full; lists are also what observability_test uses")
    def test_found_by_a_list_in_a_file(self):
        self.scale(by_name=False)


class Update(unittest.TestCase):
    def test_everything_is_replaced_by_the_next_release_in_the_documented_order(self):
        with ElasticCluster(shards=3, shares=3, routers=2, by_name=names_work()) as cluster:
            with Load(cluster, PROMPTS[:4], TOKENS, threads=3) as load:
                load.wait_for(3)
                announced = int(re.search(r", protocol (\d+)", cluster.log("gateway-0"))[1])
                updated = f", protocol {announced + 1}\n"
                cluster.generation = "_next"
                for role, count in (("expert", 3), ("router", 2)):
                    for i in range(count):
                        # As a StatefulSet does: the old one ends, the new one starts elsewhere, the next follows.
                        name = f"{role}-{i}"
                        cluster.publish(**{role: (i,)})
                        self.assertEqual(cluster.stop(role, i), 0, cluster.log(name))
                        before = len(cluster.log(name))
                        cluster.add(role, i)
                        cluster.publish()
                        cluster.wait_until_ready(name, since=before)
                        if role == "router":  # a StatefulSet's minReadySeconds give gateways the time to find it
                            cluster.wait_until_used(i)
                        self.assertIn(updated, cluster.log(name)[before:])
                        load.wait_for(2)
                # As a Deployment does: the new one first; then nobody new is sent to the old one; then it ends, with
                # the streams that it has.
                cluster.add("gateway", 1)
                cluster.wait_until_ready("gateway-1")
                stream = Stream(cluster.addresses["gateway"][0], "The sea", 200)
                load.move_to(1)
                self.assertEqual(cluster.stop("gateway", 0), 0, cluster.log("gateway-0"))
                code, text, errors = stream.end()
                self.assertEqual((code, errors), (0, ""))
                self.assertEqual(text.strip(), cluster.ask("The sea", 200)[1]["text"].strip())
                load.wait_for(4)
            self.assertEqual(load.failures, [])
            self.assertIn(updated, cluster.log("gateway-1"))


if __name__ == "__main__":
    unittest.main()
