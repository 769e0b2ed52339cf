#!/usr/bin/env python3
"""Runs on this machine's GPU what the tests run without one, and the checks of the kernels themselves.

Ends with a line "N passed, N failed" and exits with 1 where one failed. Python's standard library alone.
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS_MAX = 1800
KERNELS = ["grouped_ffn", "bf16_grouped_ffn", "mla_decode", "dense_linear"]
DEVICE_TESTS = ["moe/kernels/accelerator/row_ops_test", "moe/kernels/accelerator/bf16_rows_test",
                "router_service/device_draw_test"]
PROFILES = ["f32", "bf16", "fp8"]
FAULTS = {"grpc": ["ReplicatedTest", "SingleCopyTest"], "ucx": ["ReplicatedOverUcxTest", "SingleCopyOverUcxTest"],
          "nccl": ["ReplicatedOverNcclTest", "SingleCopyOverNcclTest"]}
SERVICES = ["gateway/gateway", "router_service/router_service", "expert_service/expert_service"]
SANITIZER = ["compute-sanitizer", "--error-exitcode", "9", "--print-limit", "10"]


class Check:
    def __init__(self, name, command, **environment):
        self.name, self.command, self.environment = name, command, environment


def checks_of(binaries, device, shard_device, seed, sanitizers, transports):
    def program(path):
        return os.path.join(binaries, path)

    benches = {name: [program(f"moe/kernels/cuda/{name}_bench"), str(seed), "check"] for name in KERNELS}
    on_device = {"CONCLAVE_TEST_DEVICE": device}
    processes = {**on_device, "CONCLAVE_TEST_SHARD_DEVICE": shard_device, "CONCLAVE_TEST_TRANSPORTS": transports}
    answers = {profile: [program("cli/conclave"), "generate", "--model", os.path.join(ROOT, "models/demo"), "--device",
                         device, "--compute", profile, "--prompt", "Who are you?", "--max-tokens", "32"]
               for profile in PROFILES}
    for name, command in benches.items():
        yield Check(f"kernels: {name}", command)
    for path in DEVICE_TESTS:
        yield Check(f"operations: {os.path.basename(path)}", [program(path)], **on_device)
    yield Check("answers: transformers' logits", python_test("reference_test"), **on_device)
    for profile in PROFILES:
        yield Check(f"same bits: requests of all kinds, {profile}", [program("tests/same_bits_load_test")], **on_device,
                    CONCLAVE_TEST_COMPUTE=profile)
    yield Check("same bits: shards, company, chunks", python_test("same_bits_test"), **on_device,
                CONCLAVE_TEST_TRANSPORTS=transports)
    for profile in PROFILES:
        yield Check(f"processes on the device, {profile}", python_test("device_cluster_test"), **processes,
                    CONCLAVE_TEST_COMPUTE=profile)
    for transport in transports.split(","):
        yield Check(f"shards killed, stopped and slowed, {transport}",
                    [*python_test("chaos_test"), *FAULTS[transport]], **processes)
    for tool in ("memcheck", "racecheck") if sanitizers else ():
        watched = {**{f"kernels, {name}": command for name, command in benches.items()},
                   **{f"answers, {profile}": command for profile, command in answers.items()}}
        for name, command in watched.items():
            yield Check(f"{tool}: {name}", [*SANITIZER, "--tool", tool, *command])


def python_test(name):
    return [sys.executable, os.path.join(ROOT, "tests", name + ".py"), "-v"]


def transport_list(text):
    unknown = [name for name in text.split(",") if name not in FAULTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(FAULTS)}")
    return text


def gpus_here():
    """How many GPUs the driver lists; 0 where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def run(check, environment, logs):
    """Whether the check passed; what it wrote is shown where it did not."""
    begin = time.monotonic()
    try:
        result = subprocess.run(check.command, env={**environment, **check.environment}, cwd=ROOT, text=True,
                                errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                timeout=SECONDS_MAX)
        code, output = result.returncode, result.stdout
    except subprocess.TimeoutExpired as late:
        code, output = f"none after {SECONDS_MAX} s", (late.stdout or b"").decode(errors="replace")
    except OSError as error:
        code, output = "none", f"{error}\n"
    verdict = "PASSED" if code == 0 else "FAILED"
    print(f"{verdict} {time.monotonic() - begin:6.1f} s  {check.name}", flush=True)
    if logs:
        name = "".join(c if c.isalnum() else "_" for c in check.name)
        with open(os.path.join(logs, name + ".log"), "w") as file:
            file.write(output)
    if code != 0:
        print(f"  {' '.join(check.command)}\n  exit code {code}; the last of what it wrote:")
        print("".join(f"  | {line}\n" for line in output.splitlines()[-40:]), flush=True)
    return code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", metavar="DIR", default=os.path.join(ROOT, "bazel-bin"),
                        help="where the programs lie, in folders as below bazel-bin (the default): ./test --gpu builds "
                        "them, and they run on another machine too, beside a checkout and the libraries that `ldd` "
                        "lists")
    parser.add_argument("--device", metavar="NAME", default="cuda", help="cuda, or cuda:1 for the second GPU")
    parser.add_argument("--shard-device", metavar="NAME",
                        help="where shards in processes of their own compute; without it on --device, or on cuda:1 "
                        "where that is cuda and there are two GPUs or more")
    parser.add_argument("--seed", type=int, metavar="N", default=random.SystemRandom().randrange(1 << 32),
                        help="of the kernels' random inputs; without it a fresh one, which is printed")
    parser.add_argument("--transports", metavar="LIST", type=transport_list,
                        help="over which processes talk; without it grpc,ucx, and nccl where there are two GPUs or "
                        "more")
    parser.add_argument("--sanitizers", action="store_true",
                        help="the kernels' checks under compute-sanitizer as well (memcheck and racecheck), which "
                        "takes many minutes")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the checks whose names hold this text")
    parser.add_argument("--logs", metavar="DIR", help="keeps the output of every check there")
    parser.add_argument("--list", action="store_true", help="prints the names and the commands and runs nothing")
    flags = parser.parse_args()
    gpus = gpus_here()
    # NCCL before 2.30 refuses two ranks on one GPU, and is slow there without MPS.
    transports = flags.transports or ("grpc,ucx,nccl" if gpus > 1 else "grpc,ucx")
    shard_device = flags.shard_device or ("cuda:1" if flags.device == "cuda" and gpus > 1 else flags.device)
    binaries = os.path.abspath(flags.binaries)
    checks = [check for check in checks_of(binaries, flags.device, shard_device, flags.seed, flags.sanitizers,
                                           transports) if flags.only in check.name]
    if not checks:
        sys.exit(f"gpu_checks: no check's name holds --only {flags.only}; --list shows them")
    if flags.list:
        for check in checks:
            print(check.name, *(f"{k}={v}" for k, v in check.environment.items()), *check.command, sep="\n    ")
        return 0
    if gpus == 0:
        sys.exit("gpu_checks: no NVIDIA GPU here: `nvidia-smi -L` lists none; `conclave doctor` says what is missing")
    programs = [word for check in checks for word in check.command if word.startswith(binaries + "/")]
    if any(check.command[0] == sys.executable for check in checks):
        programs += [os.path.join(binaries, service) for service in SERVICES]
    for word in programs:
        if not os.path.exists(word):
            sys.exit(f"gpu_checks: {word} is not built: ./test --gpu builds it, where a CUDA 13 toolkit is found")
    if flags.sanitizers and shutil.which(SANITIZER[0]) is None:
        sys.exit("gpu_checks: --sanitizers needs compute-sanitizer, of the CUDA toolkit, on the PATH")
    if flags.logs:
        os.makedirs(flags.logs, exist_ok=True)
    libraries = os.path.join(binaries, "moe/kernels/cuda")
    environment = {**os.environ, "CONCLAVE": os.path.join(binaries, "cli/conclave"),
                   "CONCLAVE_DEMO_MODEL": os.path.join(ROOT, "models/demo"), "PYTHONDONTWRITEBYTECODE": "1",
                   "LD_LIBRARY_PATH": ":".join(filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH")]))}
    shared = os.path.join(os.path.dirname(ROOT), "shared")
    if os.path.isdir(os.path.join(shared, "reference")):
        environment.setdefault("CONCLAVE_SHARED_DIR", shared)
    print(f"seed {flags.seed}; GPUs: {gpus}, shards on {shard_device}; transports: {transports}", flush=True)
    failed = sum(not run(check, environment, flags.logs) for check in checks)
    print(f"\n{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
