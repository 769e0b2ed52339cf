"""A cluster of processes from start to end: the same answers as one process, orderly stops, clear refusals."""
import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

from conclave_test_lib import (CONCLAVE, DEMO_MODEL, Cluster, children_of, clean_environment, command_line_of,
                               copy_model_without, eventually, free_port, generate, is_alive, run)

STORY = ["--prompt", "Once upon a time", "--max-tokens", 32, "--hash-logits", "--compute", "f32"]
ANSWER_KEYS = ("prompt_ids", "ids", "text", "finish_reason", "logits_hash")


def at_gateway(cluster, *arguments):
    """The same request without what only an engine in this process takes."""
    arguments = list(arguments)
    if "--compute" in arguments:
        at = arguments.index("--compute")
        del arguments[at:at + 2]
    return generate("--gateway", cluster.gateway(), *arguments)


def answer_of(result):
    return {key: result[key] for key in ANSWER_KEYS}


class RunningClusterTest(unittest.TestCase):
    """Many questions to one cluster."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--model", DEMO_MODEL, "--shards", 3, "--compute", "f32", "--transport", "grpc")

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def assert_same_answer(self, *arguments):
        here = generate("--model", DEMO_MODEL, *arguments)
        there = at_gateway(self.cluster, *arguments)
        self.assertEqual(answer_of(here), answer_of(there))
        return here

    def test_greedy_answer_equals_one_process(self):
        answer = self.assert_same_answer(*STORY)
        self.assertEqual(len(answer["logits_hash"]), 16)
        self.assertTrue(answer["text"])

    def test_sampled_answer_equals_one_process(self):
        sampling = ["--temperature", 0.8, "--top-p", 0.9, "--top-k", 40]
        first = self.assert_same_answer(*STORY, *sampling, "--seed", 7)
        other = self.assert_same_answer(*STORY, *sampling, "--seed", 8)
        self.assertNotEqual(first["ids"], other["ids"])

    def test_chat_answer_equals_one_process_and_stops(self):
        question = ["--prompt", "What is a mixture of experts?", "--chat", "--max-tokens", 200]
        answer = self.assert_same_answer(*question, "--hash-logits", "--compute", "f32")
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertIn("expert", answer["text"])
        self.assertNotIn("<|", answer["text"])

    def test_text_outside_ascii_arrives_whole(self):
        answer = self.assert_same_answer("--prompt", "什么是", "--max-tokens", 24, "--compute", "f32")
        self.assertNotIn("\ufffd", answer["text"][:-1])

    def test_ignored_end_goes_on_to_max_tokens(self):
        answer = self.assert_same_answer("--prompt", "What is a mixture of experts?", "--chat", "--ignore-eos",
                                         "--max-tokens", 150, "--compute", "f32")
        self.assertEqual((len(answer["ids"]), answer["finish_reason"]), (150, "length"))

    def test_requests_at_the_same_time_do_not_matter_to_each_other(self):
        prompts = ["Once upon a time", "def quicksort(", "The theorem of Pythagoras", "2 + 2 =", "什么是", "Who are you?"]
        arguments = lambda prompt: ["--prompt", prompt, "--max-tokens", 24, "--hash-logits"]
        alone = [answer_of(at_gateway(self.cluster, *arguments(p))) for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            together = list(pool.map(lambda p: answer_of(at_gateway(self.cluster, *arguments(p))), prompts))
        self.assertEqual(alone, together)

    def test_text_streams_to_standard_output(self):
        expected = at_gateway(self.cluster, *STORY)["text"]
        result = run("generate", "--run-dir", self.cluster.run_dir, "--prompt", "Once upon a time", "--max-tokens", 32,
                     "--show-experts")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue(result.stdout.startswith(expected + "\n"), result.stdout)
        self.assertIn("expert-2", result.stdout)
        self.assertIn("busiest", result.stdout)

    def test_shards_alone_take_no_core_away_when_they_wake_up(self):
        policies = {p["role"]: os.sched_getscheduler(p["pid"]) for p in self.cluster.processes()}
        self.assertEqual(policies, {"expert": os.SCHED_BATCH, "router": os.SCHED_OTHER, "gateway": os.SCHED_OTHER})

    def test_cluster_file_describes_every_process(self):
        processes = self.cluster.processes()
        self.assertEqual(sorted(p["role"] for p in processes), ["expert"] * 3 + ["gateway", "router"])
        self.assertEqual(len({p["name"] for p in processes}), 5)
        for process in processes:
            self.assertTrue(is_alive(process["pid"]))
            self.assertIn(process["pid"], children_of(self.cluster.process.pid))
            host, port = process["grpc"].rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=5).close()
            with urllib.request.urlopen(f"http://{process['metrics']}/metrics", timeout=10) as page:
                self.assertIn(b"conclave_", page.read())
        self.assertIn(self.cluster.gateway(), self.cluster.ready_line())

    def test_prompt_beyond_the_context_is_refused_by_field_and_serving_goes_on(self):
        result = run("generate", "--gateway", self.cluster.gateway(), "--prompt", "a b c d " * 4000)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"^conclave generate: text: .*maximum context length is 2048")
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        at_gateway(self.cluster, *STORY)

    def test_answer_ends_where_the_context_ends(self):
        answer = self.assert_same_answer("--prompt", "a b c d " * 500, "--max-tokens", 100000, "--ignore-eos",
                                         "--compute", "f32")
        self.assertEqual(answer["finish_reason"], "length")
        self.assertLessEqual(len(answer["prompt_ids"]) + len(answer["ids"]), 2049)


def cpu_seconds_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class IdleTest(unittest.TestCase):
    def test_processes_that_nobody_asks_anything_sleep(self):
        # Eight shards tell the attention service forty times a second that they live: UCX has room for 128 of that.
        with Cluster("--model", DEMO_MODEL, "--shards", 8, "--transport", "ucx") as cluster:
            generate("--gateway", cluster.gateway(), "--prompt", "Hello", "--max-tokens", 4)
            time.sleep(6)
            processes = {p["name"]: p["pid"] for p in cluster.processes()}
            begin, before = time.monotonic(), {name: cpu_seconds_of(pid) for name, pid in processes.items()}
            time.sleep(2)
            used = {name: cpu_seconds_of(pid) - before[name] for name, pid in processes.items()}
            took = time.monotonic() - begin
            self.assertLess(sum(used.values()), took / 2, f"seconds of CPU in {took:.1f} seconds: {used}")


class StopTest(unittest.TestCase):
    def assert_stops_cleanly(self, number):
        with Cluster("--model", DEMO_MODEL, "--shards", 2) as cluster:
            pids = [p["pid"] for p in cluster.processes()]
            self.assertEqual(len(pids), 4)
            self.assertEqual(cluster.stop(number), 0, cluster.text(cluster.errors))
            self.assertEqual([pid for pid in pids if is_alive(pid)], [])
            self.assertFalse(os.path.exists(os.path.join(cluster.run_dir, "cluster.json")))

    def test_sigterm_stops_all_processes_with_exit_zero(self):
        self.assert_stops_cleanly(signal.SIGTERM)

    def test_interrupt_stops_all_processes_with_exit_zero(self):
        self.assert_stops_cleanly(signal.SIGINT)

    def test_request_in_flight_is_finished_before_the_end(self):
        with Cluster("--model", DEMO_MODEL, "--shards", 2) as cluster:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer = pool.submit(generate, "--gateway", cluster.gateway(), "--prompt", "Once", "--ignore-eos",
                                     "--max-tokens", 300)
                url = f"http://{cluster.processes('gateway')[0]['metrics']}/metrics"
                running = lambda: b"\nconclave_gateway_requests_running 1\n" in urllib.request.urlopen(
                    url, timeout=10).read()
                self.assertTrue(eventually(running))
                self.assertFalse(answer.done(), "the request ended before the signal; raise --max-tokens")
                self.assertEqual(cluster.stop(), 0, cluster.text(cluster.errors))
                self.assertEqual(len(answer.result()["ids"]), 300)

    def test_children_die_with_a_killed_parent(self):
        with Cluster("--model", DEMO_MODEL, "--shards", 2) as cluster:
            pids = [p["pid"] for p in cluster.processes()]
            cluster.stop(signal.SIGKILL)
            self.assertTrue(eventually(lambda: not any(is_alive(pid) for pid in pids)))

    def test_shard_that_dies_later_leaves_the_others_up(self):
        with Cluster("--model", DEMO_MODEL, "--shards", 2, "--compute", "f32") as cluster:
            os.kill(cluster.processes("expert")[1]["pid"], signal.SIGKILL)
            self.assertTrue(eventually(lambda: "expert-1 was killed by signal 9" in cluster.text(cluster.errors)))
            # Nobody else held its experts: the other shard loads them from the checkpoint.
            self.assertEqual(answer_of(at_gateway(cluster, *STORY)), answer_of(generate("--model", DEMO_MODEL, *STORY)))
            self.assertEqual(cluster.stop(), 0, cluster.text(cluster.errors))

    def test_gateway_that_dies_ends_the_cluster_with_an_error(self):
        with Cluster("--model", DEMO_MODEL, "--shards", 2) as cluster:
            pids = [p["pid"] for p in cluster.processes()]
            os.kill(cluster.processes("gateway")[0]["pid"], signal.SIGKILL)
            code, errors = cluster.end()
            self.assertEqual(code, 1)
            self.assertIn("conclave up: gateway was killed by signal 9", errors)
            self.assertEqual([pid for pid in pids if is_alive(pid)], [])

    def test_directory_of_a_running_cluster_is_refused(self):
        with Cluster("--model", DEMO_MODEL, "--shards", 1) as cluster:
            result = run("up", "--model", DEMO_MODEL, "--run-dir", cluster.run_dir)
            self.assertEqual(result.returncode, 1)
            self.assertIn("a cluster runs in --run-dir", result.stderr)
            generate("--run-dir", cluster.run_dir, "--prompt", "x", "--max-tokens", 2)
            # What is left of one that was killed does not keep the next one out, though its numbers are others' by now.
            left = os.path.join(cluster.run_dir, "cluster.json")
            with open(left) as file:
                old = file.read()
            pids = [process["pid"] for process in cluster.processes()]
            self.assertEqual(cluster.stop(), 0)
            with open(left, "w") as file:
                file.write(re.sub("|".join(map(str, pids)), str(os.getpid()), old))
            command = [CONCLAVE, "up", "--model", DEMO_MODEL, "--shards", "1", "--run-dir", cluster.run_dir]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as next_one:
                self.assertIn("ready: ", next_one.stdout.readline())
                next_one.send_signal(signal.SIGTERM)

    def test_pinned_processes_keep_to_cpus_of_their_own(self):
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) >= 2:
            with Cluster("--model", DEMO_MODEL, "--shards", 1, "--pin") as cluster:
                router, expert = (os.sched_getaffinity(p["pid"]) for role in ("router", "expert")
                                  for p in cluster.processes() if p["role"] == role)
                self.assertLessEqual(router | expert, set(usable))
                self.assertTrue(router and expert)
                self.assertFalse(router & expert)
        result = run("up", "--model", DEMO_MODEL, "--shards", len(usable), "--threads", len(usable), "--pin")
        self.assertEqual(result.returncode, 2)
        self.assertIn(f"--pin: {len(usable) + 1} processes compute, on {len(usable)} cores", result.stderr)

    def test_inproc_transport_runs_experts_in_the_attention_service(self):
        with Cluster("--model", DEMO_MODEL, "--transport", "inproc", "--compute", "f32") as cluster:
            self.assertEqual([p["role"] for p in cluster.processes("expert")], [])
            self.assertEqual(answer_of(generate("--model", DEMO_MODEL, *STORY)), answer_of(at_gateway(cluster, *STORY)))
            self.assertEqual(cluster.stop(), 0, cluster.text(cluster.errors))


def installation(directory, before_shards):
    """All executables in one directory, in which a line of shell runs before each shard; the path of the command."""
    built = os.path.dirname(os.path.dirname(os.path.realpath(CONCLAVE)))
    for name in ("gateway", "router_service"):
        os.symlink(os.path.join(built, name, name), os.path.join(directory, name))
    with open(os.path.join(directory, "expert_service"), "w") as script:
        script.write(f'#!/bin/sh\n{before_shards}\nexec {built}/expert_service/expert_service "$@"\n')
    os.chmod(os.path.join(directory, "expert_service"), 0o755)
    return shutil.copy(os.path.realpath(CONCLAVE), os.path.join(directory, "conclave"))


class BadStartTest(unittest.TestCase):
    def assert_refused(self, code, words, *arguments, conclave=CONCLAVE):
        with Cluster(*arguments, wait=False, conclave=conclave) as cluster:
            got, errors = cluster.end()
            lines = [line for line in errors.splitlines() if line.startswith("conclave")]
            self.assertEqual(got, code, errors)
            self.assertEqual(len(lines), 1, errors)
            for word in words:
                self.assertIn(word, lines[0])
            self.assertEqual(cluster.ready_line(), "")

    def test_port_in_use_is_named_before_anything_starts(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assert_refused(1, [str(port), "in use", "--grpc-port"], "--model", DEMO_MODEL, "--grpc-port", port)
            self.assert_refused(1, [str(port), "in use", "--metrics-port"], "--model", DEMO_MODEL,
                                "--metrics-port", port)

    def test_chosen_ports_are_used(self):
        grpc_port, metrics_port = free_port(), free_port()
        with Cluster("--model", DEMO_MODEL, "--shards", 1, "--grpc-port", grpc_port, "--metrics-port",
                     metrics_port) as cluster:
            gateway = cluster.processes("gateway")[0]
            self.assertTrue(gateway["grpc"].endswith(f":{grpc_port}"), gateway)
            self.assertTrue(gateway["metrics"].endswith(f":{metrics_port}"), gateway)

    def test_missing_model_directory_is_named(self):
        self.assert_refused(1, ["/nowhere/model"], "--model", "/nowhere/model")

    def test_model_that_is_not_in_the_cache_is_refused_with_the_download_command(self):
        self.assert_refused(1, ["some-org/some-model", "download"], "--model", "some-org/some-model")

    def test_wrong_use_exits_with_two(self):
        self.assert_refused(2, ["--model"])
        self.assert_refused(2, ["--shards"], "--model", DEMO_MODEL, "--shards", "-1")
        self.assert_refused(2, ["--transport", "pigeon"], "--model", DEMO_MODEL, "--transport", "pigeon")
        self.assert_refused(2, ["--transport nccl", "--device cuda"], "--model", DEMO_MODEL, "--transport", "nccl")
        self.assert_refused(2, ["did you mean --shards"], "--model", DEMO_MODEL, "--shard", "2")
        self.assert_refused(2, ["--replicas 3", "--shards"], "--model", DEMO_MODEL, "--shards", "2", "--replicas", "3")
        self.assert_refused(2, ["GPU"], "--model", DEMO_MODEL, "--compute", "fp8")

    def test_incomplete_model_is_refused_before_anything_starts(self):
        with tempfile.TemporaryDirectory() as directory:
            model = os.path.join(directory, "model")
            missing = "model.layers.7.mlp.experts.31.down_proj.weight"
            copy_model_without(DEMO_MODEL, model, lambda name: name == missing)
            self.assert_refused(1, [missing], "--model", model, "--shards", 4)

    def test_shard_that_cannot_start_ends_the_cluster_with_its_own_error(self):
        with tempfile.TemporaryDirectory() as directory:
            conclave = installation(directory, 'case "$*" in *expert-2*) set -- "$@" --no-such-flag ;; esac')
            self.assert_refused(1, ["expert-2 ended with exit code 2", "no-such-flag"], "--model", DEMO_MODEL,
                                "--shards", 4, conclave=conclave)

    def test_process_killed_at_start_ends_the_cluster_by_name(self):
        with tempfile.TemporaryDirectory() as directory:
            # However late the signal comes, the cluster still starts: its last shard never does.
            conclave = installation(directory, 'case "$*" in *expert-3*) exec sleep 600 ;; esac')
            with Cluster("--model", DEMO_MODEL, "--shards", 4, wait=False, conclave=conclave) as cluster:
                def a_shard():
                    return next((pid for pid in children_of(cluster.process.pid)
                                 if os.path.basename((command_line_of(pid) or [""])[0]) == "expert_service"), None)
                shard = eventually(a_shard)
                os.kill(shard, signal.SIGKILL)
                code, errors = cluster.end()
                self.assertEqual(code, 1, errors)
                self.assertRegex(errors, r"conclave up: expert-\d was killed by signal 9")
                self.assertTrue(eventually(lambda: not children_of(cluster.process.pid)))


class CommandTest(unittest.TestCase):
    """The command itself, as a shell sees it."""

    def test_exit_codes_and_one_line_errors(self):
        for code, arguments in [(2, []), (2, ["bogus"]), (2, ["generate"]), (2, ["generate", "--prompt", "x"]),
                                (2, ["generate", "--model", DEMO_MODEL, "--prompt", ""]),
                                (2, ["generate", "--model", DEMO_MODEL, "--prompt", "x", "--temperature", "nan"]),
                                (2, ["generate", "--model", DEMO_MODEL, "--prompt", "x", "--max-tokens", "0"]),
                                (2, ["logits", "--model", DEMO_MODEL, "--ids", "1,x", "--out", "/dev/null"]),
                                (1, ["logits", "--model", DEMO_MODEL, "--ids", "1,99999", "--out", "/tmp/never"]),
                                (1, ["generate", "--gateway", f"127.0.0.1:{free_port()}", "--prompt", "x"]),
                                (1, ["generate", "--model", "/nowhere", "--prompt", "x"]),
                                (1, ["inspect", "/nowhere"]), (2, ["inspect"]), (2, ["completion", "csh"])]:
            result = run(*arguments)
            self.assertEqual(result.returncode, code, f"{arguments}: {result.stderr}")
            self.assertEqual(result.stderr.count("\n"), 1, f"{arguments}: {result.stderr}")
            self.assertTrue(result.stderr.startswith("conclave"), result.stderr)

    def test_environment_sets_flags_and_the_command_line_wins(self):
        environment = clean_environment(CONCLAVE_MODEL=DEMO_MODEL, CONCLAVE_MAX_TOKENS="3", CONCLAVE_OUTPUT="json")
        self.assertEqual(run("generate", "--prompt", "x", environment=environment).stdout.count('"ids"'), 1)
        result = run("generate", "--prompt", "x", "--max-tokens", 5, "--max-tokens", 2, "--ignore-eos",
                     environment=environment)
        self.assertIn('"finish_reason": "length"', result.stdout)
        self.assertEqual(len(json.loads(result.stdout)["ids"]), 2)

    def test_completion_scripts_are_valid_shell(self):
        for shell in ("bash", "zsh", "fish"):
            script = run("completion", shell)
            self.assertEqual(script.returncode, 0)
            self.assertIn("hash-logits", script.stdout)
            self.assertNotIn("beside", script.stdout)
            if shutil.which(shell):
                self.assertEqual(subprocess.run([shell, "-n"], input=script.stdout, text=True).returncode, 0)

    def test_bash_completes_verbs_flags_and_choices(self):
        script = run("completion", "bash").stdout
        for words, expected in [(["conclave", "gen"], "generate"), (["conclave", "up", "--tran"], "--transport"),
                                (["conclave", "up", "--transport", "gr"], "grpc"),
                                (["conclave", "chat", "--sys"], "--system"),
                                (["conclave", "bench", "--protocol", "h"], "http"),
                                (["conclave", "completion", "z"], "zsh")]:
            array = " ".join(f"'{word}'" for word in words)
            got = subprocess.run(["bash", "-c", f"{script}\nCOMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; "
                                  '_conclave; echo "${COMPREPLY[@]}"'], capture_output=True, text=True).stdout.split()
            self.assertEqual(got, [expected])

    def test_bench_kernels_measures_against_its_ceilings(self):
        result = run("bench-kernels", "--isa", "scalar", "--threads", 2, "--rows-max", 1, "--seconds", 0.001, "-o",
                     "json")
        self.assertEqual(result.returncode, 0, result.stderr)
        found = json.loads(result.stdout)
        self.assertEqual({(d["isa"], d["compute"]) for d in found["dots"]},
                         {("scalar", "f32"), ("scalar", "bf16"), ("scalar", "int8")})
        self.assertGreater(found["read_gb_per_s"], 0)
        figures = found["figures"]
        self.assertEqual(sorted({f["weights"] for f in figures}), ["bf16", "f16", "f32", "f8", "int4", "int8"])
        self.assertEqual({f["rows"] for f in figures}, {1})
        for figure in figures:
            self.assertAlmostEqual(figure["of_reads"], figure["gb_per_s"] / figure["read_gb_per_s"], places=4)
            self.assertAlmostEqual(figure["gflop_per_s"] * figure["us"] * 1e-6, 2e-9 * figure["n"] * figure["k"],
                                   places=4)
        self.assertEqual({(f["heads"], f["width"]) for f in found["attention"]}, {(16, 288), (16, 576), (128, 576)})
        for figure in found["attention"]:
            self.assertAlmostEqual(figure["gb_per_s"] * figure["us"] * 1e-6,
                                   figure["tokens"] * figure["width"] * 4e-9, places=4)

    def test_bench_model_measures_what_it_was_asked_for(self):
        result = run("bench-model", "--model", DEMO_MODEL, "--prompt-tokens", 16, "--answer-tokens", 4, "--streams",
                     "1,3", "--stream-tokens", 2, "--repetitions", 2, "-o", "json")
        report = json.loads(result.stdout)
        self.assertEqual([figure["name"] for figure in report["figures"]], ["pp16", "tg4", "tg2 x 1", "tg2 x 3"])
        for figure in report["figures"]:
            self.assertEqual(len(figure["repetitions"]), 2)
            self.assertGreater(figure["tokens_per_second"], 0)
        self.assertGreater(report["first_token_ms"], 0)
        self.assertEqual(report["temperature"], 0)
        self.assertEqual(run("bench-model", "--model", DEMO_MODEL, "--streams", "4,x").returncode, 2)

    def test_bench_model_draws_tokens_where_it_is_asked_to(self):
        result = run("bench-model", "--model", DEMO_MODEL, "--prompt-tokens", 0, "--answer-tokens", 4, "--streams", "",
                     "--repetitions", 1, "--temperature", 0.7, "--top-p", 0.9, "--top-k", 40, "--min-p", 0.01,
                     "--repetition-penalty", 1.1, "-o", "json")
        report = json.loads(result.stdout)
        self.assertEqual(report["temperature"], 0.7)
        self.assertGreater(report["figures"][0]["tokens_per_second"], 0)
        for flag, value in [("temperature", -1), ("top-p", 0), ("top-k", -1), ("min-p", 2), ("repetition-penalty", 0)]:
            result = run("bench-model", "--model", DEMO_MODEL, f"--{flag}", value)
            self.assertEqual(result.returncode, 2)
            self.assertIn(f"{flag.replace('-', '_')} is {value}", result.stderr)

    def test_bench_model_measures_shards_in_turn_with_one_process(self):
        result = run("bench-model", "--model", DEMO_MODEL, "--prompt-tokens", 0, "--answer-tokens", 4, "--streams", "",
                     "--repetitions", 2, "--against", "inproc:2,ucx:2,grpc:1", "-o", "json")
        self.assertEqual(result.returncode, 0, result.stderr)
        figures = json.loads(result.stdout)["figures"]
        self.assertEqual([(f["name"], f.get("against")) for f in figures],
                         [("tg4", None), ("tg4", "inproc:2"), ("tg4", "ucx:2"), ("tg4", "grpc:1")])
        here = figures[0]["repetitions"]
        for figure in figures[1:]:
            first, second = (there / local for there, local in zip(figure["repetitions"], here))
            self.assertAlmostEqual(figure["ratio"], (first + second) / 2, places=4)
        result = run("bench-model", "--model", DEMO_MODEL, "--against", "nccl:2")
        self.assertEqual(result.returncode, 2)
        self.assertIn("'nccl:2' is none", result.stderr)

    def test_perplexity_tells_a_terminal_how_far_it_is(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            text.write("Once upon a time there was a small model. " * 20)
            text.flush()
            terminal, its_end = os.openpty()
            command = [CONCLAVE, "perplexity", "--model", DEMO_MODEL, "--text", text.name, "--window", "64"]
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=its_end, env=clean_environment(),
                                    timeout=120, check=True, text=True)
            told = os.read(terminal, 1 << 16).decode()
            os.close(terminal)
            os.close(its_end)
        self.assertRegex(told, r"%  \d+ of \d+ tokens")
        self.assertTrue(told.endswith("\r\033[K"), told)
        self.assertRegex(result.stdout, r"^perplexity \d")

    def test_cpus_that_are_not_there_are_named(self):
        for command in [("generate", "--prompt", "x"), ("bench-model",)]:
            result = run(*command, "--model", DEMO_MODEL, "--cpus", "0,1023")
            self.assertEqual(result.returncode, 2)
            self.assertIn("--cpus: CPU 1023 is not there, or not for this process; it may use", result.stderr)

    def test_bench_kernels_says_what_it_cannot_measure(self):
        for flags, reason in [(["--device", "cuda", "--rows", "1,x"], "'x' is none"), (["--device", "gpu"], "gpu")]:
            result = run("bench-kernels", *flags)
            self.assertEqual(result.returncode, 2)
            self.assertIn(reason, result.stderr)

    def test_doctor_and_inspect_speak_json(self):
        checks = json.loads(run("doctor", "-o", "json").stdout)["checks"]
        names = {check["name"] for check in checks}
        self.assertLessEqual({"cpu", "memory", "huge pages", "/dev/shm", "memlock", "descriptors", "ports", "ucx",
                              "cuda"}, names)
        for check in checks:
            self.assertTrue(check["status"] == "ok" or check["fix"], check)
        self.assertEqual(run("doctor").returncode, 0)
        self.assertTrue(json.loads(run("inspect", DEMO_MODEL, "-o", "json").stdout))


if __name__ == "__main__":
    unittest.main()
