"""Who may use a cluster and who may listen: keys, limits, usage records, TLS between all services."""
import json
import os
import shutil
import signal
import subprocess
import unittest

from conclave_test_lib import CONCLAVE, DEMO_MODEL, Cluster, clean_environment, eventually, new_folder, run

ROOT = os.path.dirname(os.path.dirname(CONCLAVE))
ASK = ["--prompt", "Once upon a time", "--max-tokens", 8, "-o", "json"]


def new_key():
    made = json.loads(run("key", "-o", "json").stdout)
    return made["key"], made["hash"]


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


class TenantsTest(unittest.TestCase):
    def ask(self, key):
        environment = clean_environment(**({"CONCLAVE_API_KEY": key} if key else {}))
        return run("generate", "--gateway", self.cluster.gateway(), *ASK, environment=environment)

    def test_keys_limits_and_records_of_a_running_gateway(self):
        folder = new_folder()
        keys, usage = os.path.join(folder, "keys.yaml"), os.path.join(folder, "usage.jsonl")
        (first, first_hash), (second, second_hash) = new_key(), new_key()
        tenant = "  - name: {}\n    keys: ['{}']\n    requests-per-minute: {}\n"
        write(keys, "tenants:\n" + tenant.format("first", first_hash, 100))
        self.cluster = Cluster("--model", DEMO_MODEL, "--transport", "inproc",
                               "--gateway-flags", f"api-keys={keys} usage-log={usage}")
        self.addCleanup(self.cluster.__exit__)

        refused = self.ask(None)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("an API key is needed", refused.stderr)
        self.assertIn("not known here", self.ask(second).stderr)
        answer = self.ask(first)
        self.assertEqual(answer.returncode, 0, answer.stderr)

        # The file changes under the running gateway.
        write(keys, "tenants:\n" + tenant.format("second", second_hash, 2))
        self.assertTrue(eventually(lambda: self.ask(second).returncode == 0))
        self.assertIn("not known here", self.ask(first).stderr)
        self.assertEqual(json.loads(answer.stdout)["ids"], json.loads(self.ask(second).stdout)["ids"])
        self.assertIn("tenant second may make 2 requests a minute", self.ask(second).stderr)
        write(keys, "tenants: [broken\n")
        log = os.path.join(self.cluster.run_dir, "gateway.log")
        self.assertTrue(eventually(lambda: "the keys stay as they were" in read(log)))
        self.assertIn("tenant second may make", self.ask(second).stderr)

        # Rotation: what was moved away stays whole, and what comes later goes to a new file.
        os.rename(usage, usage + ".old")
        os.kill(self.cluster.processes("gateway")[0]["pid"], signal.SIGHUP)
        self.assertTrue(eventually(lambda: os.path.exists(usage)))
        self.ask(second)
        old, new = ([json.loads(line) for line in read(path).splitlines()] for path in (usage + ".old", usage))
        self.assertEqual([(r["tenant"], r["code"]) for r in old],
                         [("first", "OK"), ("second", "OK"), ("second", "OK"), ("second", "RESOURCE_EXHAUSTED"),
                          ("second", "RESOURCE_EXHAUSTED")])
        self.assertEqual((old[0]["completion_tokens"], old[0]["model"]), (8, "demo"))
        self.assertEqual([r["limit"] for r in new], ["requests_per_minute"])
        self.assertNotIn("Once", json.dumps(old + new))


class Service:
    """One service process, and where it listens."""

    def __init__(self, binary, *flags):
        self.folder = new_folder()
        address_file = os.path.join(self.folder, "address.json")
        self.errors = open(os.path.join(self.folder, "err"), "w+")
        self.process = subprocess.Popen([os.path.join(ROOT, binary), f"--address-file={address_file}", *flags],
                                        stderr=self.errors, env=clean_environment())
        eventually(lambda: os.path.exists(address_file) or self.process.poll() is not None)
        self.addresses = json.loads(read(address_file)) if self.process.poll() is None else {}
        self.grpc = self.addresses.get("grpc")

    def log(self):
        return read(self.errors.name)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=60)
        self.errors.close()


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.certificates = {}
        for name in ("ours", "theirs"):
            folder = new_folder()
            subprocess.run([os.path.join(ROOT, "tools/make_certificates.sh"), folder], check=True)
            cls.certificates[name] = folder

    def files(self, *flags, whose="ours"):
        names = {"tls-ca": "ca.pem", "tls-client-ca": "ca.pem", "tls-cert": "service.pem", "tls-key": "service.key",
                 "tls-client-cert": "service.pem", "tls-client-key": "service.key"}
        return [f"--{flag}={os.path.join(self.certificates[whose], names[flag])}" for flag in flags]

    def test_a_cluster_in_which_every_port_asks_for_certificates(self):
        server, client = ["tls-cert", "tls-key", "tls-client-ca"], ["tls-ca", "tls-client-cert", "tls-client-key"]
        model, compute = f"--model={DEMO_MODEL}", "--compute=f32"
        shard = Service("expert_service/expert_service", model, compute, *self.files(*server))
        self.addCleanup(shard.close)
        router = Service("router_service/router_service", model, compute, f"--shard={shard.grpc}",
                         *self.files(*server, *client))
        self.addCleanup(router.close)
        gateway = Service("gateway/gateway", model, f"--router={router.grpc}", *self.files(*server, *client))
        self.addCleanup(gateway.close)

        ask = lambda *flags: run("generate", "--gateway", gateway.grpc, *ASK, "--hash-logits", *flags)
        self.assertTrue(eventually(lambda: ask(*self.files(*client)).returncode == 0, 60), gateway.log())
        secured = json.loads(ask(*self.files(*client)).stdout)
        here = json.loads(run("generate", "--model", DEMO_MODEL, "--compute", "f32", *ASK, "--hash-logits").stdout)
        self.assertEqual((secured["ids"], secured["logits_hash"]), (here["ids"], here["logits_hash"]))
        for flags, why in (([], "--tls-ca"), (self.files("tls-ca"), "--tls-client-cert"),
                           (self.files(*client, whose="theirs"), "certificate verify failed")):
            refused = ask(*flags)
            self.assertEqual(refused.returncode, 1, flags)
            self.assertIn(why, refused.stderr, flags)

    def test_every_verb_gets_in_by_the_same_flags(self):
        ours = self.certificates["ours"]
        # Of the same root, for a name that no address resolves to.
        named = new_folder()
        for file in ("ca.pem", "ca.key"):
            shutil.copy(os.path.join(ours, file), named)
        subprocess.run([os.path.join(ROOT, "tools/make_certificates.sh"), named, "cluster.example"], check=True)
        key, key_hash = new_key()
        keys = os.path.join(named, "keys.yaml")
        write(keys, f"tenants:\n  - name: one\n    keys: ['{key_hash}']\n")
        server, client = ["tls-cert", "tls-key", "tls-client-ca"], ["tls-ca", "tls-client-cert", "tls-client-key"]
        router = Service("router_service/router_service", f"--model={DEMO_MODEL}", *self.files(*server))
        self.addCleanup(router.close)
        port = {"tls-cert": "service.pem", "tls-key": "service.key", "tls-client-ca": "ca.pem"}
        gateway = Service("gateway/gateway", f"--model={DEMO_MODEL}", f"--router={router.grpc}", *self.files(*client),
                          f"--api-keys={keys}", *(f"--{prefix}{flag}={os.path.join(named, file)}"
                                                  for prefix in ("", "http-") for flag, file in port.items()))
        self.addCleanup(gateway.close)

        grpc, http = ["--address", gateway.grpc], ["--address", "https://" + gateway.addresses["http"]]
        access = self.files(*client)
        verbs = [["generate", *grpc, *ASK], ["chat", *grpc, "--max-tokens", 4],
                 ["bench", *grpc, "--protocol", "grpc", "--requests", 2, "--output-tokens", 4],
                 ["bench", *http, "--requests", 2, "--output-tokens", 4]]

        def ask(verb, *flags):
            return subprocess.run([CONCLAVE, *map(str, verb), *flags], input="Who are you?\n", capture_output=True,
                                  text=True, timeout=60, env=clean_environment(CONCLAVE_API_KEY=key))

        self.assertTrue(eventually(lambda: ask(verbs[0], *access, "--tls-server-name=cluster.example").returncode == 0,
                                   60), gateway.log())
        for verb in verbs:
            admitted = ask(verb, *access, "--tls-server-name=cluster.example")
            self.assertEqual(admitted.returncode, 0, (verb, admitted.stderr))
            self.assertEqual(ask(verb, *access).returncode, 1, (verb, "the certificate names another host"))
            without = ask(verb, *self.files("tls-ca"), "--tls-server-name=cluster.example")
            self.assertEqual(without.returncode, 1, (verb, "no certificate of the client's"))
            other_key = ask(verb, *access, "--tls-server-name=cluster.example", "--api-key=ck-nobody-nothing")
            self.assertIn("not known here", other_key.stderr, verb)
        top = ["top", "--address", router.grpc, "--once", "--interval", 0.1]
        self.assertEqual(ask(top, *access).returncode, 0)
        self.assertEqual(ask(top, *access, "--tls-server-name=localhost").returncode, 0)
        for flags in ([], [*access, "--tls-server-name=cluster.example"]):
            refused = ask(top, *flags)
            self.assertIn("no attention service answers", refused.stderr, flags)
        at_gateway = ask(["top", *grpc], *access, "--tls-server-name=cluster.example")
        self.assertIn("is no attention service", at_gateway.stderr)
        self.assertIn("--tls-server-name: needs --tls-ca", ask(top, "--tls-server-name=x").stderr)

    def refusal(self, *flags):
        service = Service("gateway/gateway", f"--model={DEMO_MODEL}", "--router=127.0.0.1:1", *flags)
        self.assertNotEqual(service.process.wait(timeout=30), 0)
        service.close()
        return service.log()

    def test_plaintext_is_for_loopback_alone_and_a_missing_certificate_is_named(self):
        self.assertIn("--grpc-address: other machines may reach 0.0.0.0:0", self.refusal("--grpc-address=0.0.0.0:0"))
        self.assertIn("--metrics-address: other machines may reach", self.refusal("--metrics-address=0.0.0.0:0"))
        self.assertIn("--tls-cert: /no/such.pem: No such file",
                      self.refusal("--tls-cert=/no/such.pem", *self.files("tls-key")))
        allowed = Service("gateway/gateway", f"--model={DEMO_MODEL}", "--router=127.0.0.1:1",
                          "--grpc-address=0.0.0.0:0", "--allow-insecure")
        self.addCleanup(allowed.close)
        self.assertIsNotNone(allowed.grpc, allowed.log())


if __name__ == "__main__":
    unittest.main()
