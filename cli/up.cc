// `conclave up`: a whole cluster on this machine, in the foreground.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/cluster_file.h"
#include "cli/cluster_runner.h"
#include "cli/command.h"
#include "cli/core_split.h"
#include "cli/listen_check.h"
#include "cli/local_cluster.h"
#include "cli/process_group.h"
#include "cli/run_directory.h"
#include "cli/service_binaries.h"
#include "moe/base/cpus.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/daemon/listen_address.h"
#include "moe/kernels/kernels.h"

namespace conclave {
namespace {

// Shows how loading goes on standard error: one line that is rewritten on a terminal, a line for each news elsewhere.
class ProgressLine {
 public:
  ~ProgressLine() { Clear(); }

  void Show(absl::string_view text) {
    if (!terminal_) {
      std::cerr << text << std::endl;
      return;
    }
    std::cerr << "\r\033[K" << text.substr(0, kColumnsMax) << std::flush;
    shown_ = true;
  }

  void Clear() {
    if (std::exchange(shown_, false)) std::cerr << "\r\033[K" << std::flush;
  }

 private:
  static constexpr size_t kColumnsMax = 150;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool shown_ = false;
};

// Whether the process of a cluster file runs still. Numbers are given out again: it must have been started as this one.
bool Runs(const ClusterProcess& process) {
  std::ifstream file(absl::StrCat("/proc/", process.pid, "/cmdline"), std::ios::binary);
  const std::string line{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::vector<std::string> arguments = absl::StrSplit(line, '\0');
  return std::count(arguments.begin(), arguments.end(), absl::StrCat("--name=", process.name)) > 0;
}

// A run directory that belongs to a running cluster is refused: its files would be overwritten.
absl::Status CheckNotInUse(const std::string& run_directory) {
  const absl::StatusOr<std::vector<ClusterProcess>> processes = ReadClusterFile(ClusterFilePath(run_directory));
  if (!processes.ok()) return absl::OkStatus();
  for (const ClusterProcess& process : *processes) {
    if (Runs(process)) {
      return absl::FailedPreconditionError(absl::StrCat("a cluster runs in --run-dir ", run_directory, " already (",
                                                        process.name, ", process ", process.pid,
                                                        "); stop it, or choose another directory"));
    }
  }
  return absl::OkStatus();
}

std::string ReadyLine(const std::vector<ClusterProcess>& processes, const std::string& run_directory) {
  std::vector<std::string> parts;
  for (const char* role : {"gateway", "router", "expert", "placement"}) {
    for (const ClusterProcess& process : processes) {
      if (process.role == role) parts.push_back(absl::StrCat(process.name, " ", process.grpc));
      if (process.role != role || process.role != "gateway") continue;
      if (!process.http.empty()) absl::StrAppend(&parts.back(), " (OpenAI's API http://", process.http, "/v1)");
      if (!process.metrics.empty()) absl::StrAppend(&parts.back(), " (metrics http://", process.metrics, "/metrics)");
    }
  }
  return absl::StrCat("ready: ", absl::StrJoin(parts, ", "), "; run directory ", run_directory);
}

class UpCommand final : public Command {
 public:
  std::string name() const override { return "up"; }
  std::string summary() const override { return "run a cluster on this machine until Ctrl-C"; }

  void Declare(CommandFlags& flags) override {
    flags.Add("model", &plan_.model, "DIR", "the model: a directory, or org/name[@revision] in the Hugging Face cache");
    CommandFlag& shards = flags.Add("shards", &plan_.shards, "N", "expert processes");
    shards.minimum = 1;
    shards.maximum = limits::kShardsMax;
    CommandFlag& routers = flags.Add("routers", &plan_.routers, "N", "attention services, which share the requests");
    routers.minimum = 1;
    routers.maximum = 64;
    CommandFlag& replicas =
        flags.Add("replicas", &plan_.replicas, "R", "on how many expert processes each expert lives");
    replicas.minimum = 1;
    replicas.maximum = limits::kShardsMax;
    flags
        .Add("transport", &plan_.transport, "NAME",
             "auto: ucx where it works, else grpc, to experts in processes of their own; nccl: between GPUs; inproc: "
             "in the attention service")
        .choices = {"auto", "grpc", "ucx", "nccl", "inproc"};
    DeclareTarget(flags, plan_.target);
    for (auto [flag, port, help] :
         {std::tuple("http-port", &plan_.http_port, "the gateway's HTTP port; 0: a free one"),
          std::tuple("grpc-port", &plan_.grpc_port, "the gateway's gRPC port; 0: a free one"),
          std::tuple("metrics-port", &plan_.metrics_port, "the gateway's metrics port; 0: a free one")}) {
      CommandFlag& declared = flags.Add(flag, port, "PORT", help);
      declared.minimum = 0;
      declared.maximum = 65535;
    }
    flags.Add("gateway-flags", &plan_.gateway_flags, "FLAGS",
              "more flags of the gateway, without dashes: 'api-keys=keys.yaml usage-log=usage.jsonl'");
    flags.Add("router-flags", &plan_.router_flags, "FLAGS",
              "more flags of the attention services: 'max-running=32 kv-memory=4GiB'");
    flags.Add("expert-flags", &plan_.expert_flags, "FLAGS",
              "more flags of the expert processes: 'per-expert-metrics=true'");
    flags.Add("rebalance", &plan_.rebalance, "",
              "give experts that get many tokens more shards, while requests run (placement_service)");
    flags.Add("placement-flags", &plan_.placement_flags, "FLAGS",
              "more flags of the process that --rebalance starts: 'interval=2s spare=0.5'");
    flags.Add("run-dir", &plan_.run_directory, "DIR",
              "for logs, addresses and cluster.json; a new one in /tmp where absent");
    CommandFlag& threads = flags.Add("threads", &cores_, "N", "cores to share out among the processes; 0: all");
    threads.minimum = 0;
    threads.maximum = limits::kThreadsMax;
    flags.Add("pin", &pin_, "", "pin each computing thread to a CPU of its own");
  }

  absl::Status Run(const CommandContext& context) override {
    BlockSignals();
    RETURN_IF_ERROR(Check(context));
    RETURN_IF_ERROR(PrepareDirectory(context));
    ProgressLine line;
    ClusterRunner runner(plan_, [&line](absl::string_view text) { line.Show(text); });
    absl::Status status = runner.Start();
    line.Clear();
    if (status.ok()) status = runner.Publish();
    if (status.ok()) {
      std::cout << ReadyLine(runner.processes(), plan_.run_directory) << std::endl;
      status = runner.WaitForEnd([](absl::string_view text) {
        std::cerr << "conclave up: the cluster goes on without one of its processes: " << text << std::endl;
      });
    }
    const absl::Status stopped = runner.Stop();
    if (absl::IsCancelled(status)) status = absl::OkStatus();
    if (status.ok()) status = stopped;
    if (status.ok() && temporary_directory_) {
      std::error_code ignored;
      std::filesystem::remove_all(plan_.run_directory, ignored);
    }
    return status;
  }

 private:
  // Everything that can be wrong before a process is started.
  absl::Status Check(const CommandContext& context) {
    if (plan_.model.empty())
      return UsageError("--model is missing: name the model's directory, such as --model models/demo");
    RETURN_IF_ERROR(ValidateTarget(plan_.target));
    if (plan_.transport == "nccl" && plan_.target.device == "cpu") {
      return UsageError("--transport nccl moves rows between GPUs: give --device cuda, or another transport");
    }
    // Opened here, so that what is missing is said before a process starts, and to name what "auto" means.
    ASSIGN_OR_RETURN(const auto target, ComputeTarget::Create(plan_.target));
    plan_.target.compute = std::string(Name(target->kernels().compute));
    ASSIGN_OR_RETURN(const std::string directory, ResolveModelDir(plan_.model, context.hub));
    RETURN_IF_ERROR(Checkpoint::Open(directory).status());
    for (const auto& [flag, port] : {std::pair("http-port", plan_.http_port), std::pair("grpc-port", plan_.grpc_port),
                                     std::pair("metrics-port", plan_.metrics_port)}) {
      if (!CanListenOnLoopback(port)) return ExplainListenFailure(JoinHostPort("127.0.0.1", port), flag);
    }
    ASSIGN_OR_RETURN(plan_.gateway_binary, FindServiceBinary(context.binary_directory, "gateway"));
    ASSIGN_OR_RETURN(plan_.router_binary, FindServiceBinary(context.binary_directory, "router_service"));
    ASSIGN_OR_RETURN(plan_.expert_binary, FindServiceBinary(context.binary_directory, "expert_service"));
    if (plan_.transport == "inproc") plan_.shards = 0;
    if (plan_.rebalance) {
      if (plan_.shards < 2) return UsageError("--rebalance moves experts between shards: there must be two at least");
      ASSIGN_OR_RETURN(plan_.placement_binary, FindServiceBinary(context.binary_directory, "placement_service"));
    }
    if (plan_.replicas > std::max(1, plan_.shards)) {
      return UsageError(absl::StrCat("--replicas ", plan_.replicas, ": there are ", plan_.shards,
                                     " expert processes (--shards); each holds an expert at most once"));
    }
    return ShareOutCores();
  }

  absl::Status ShareOutCores() {
    const int cores = cores_ > 0 ? cores_ : UsableCores();
    if (!pin_) {
      plan_.cores = ShareCores(cores, plan_.routers, plan_.shards);
      return absl::OkStatus();
    }
    const std::vector<int> cpus = UsableCpus();
    const std::string usable = absl::StrCat("this process may use ", cpus.size(), " CPUs (", FormatCpuList(cpus), ")");
    if (cores > static_cast<int>(cpus.size())) {
      return UsageError(absl::StrCat("--pin: --threads ", cores, " are too many: ", usable));
    }
    if (cores < plan_.routers + plan_.shards) {
      return UsageError(absl::StrCat("--pin: ", plan_.routers + plan_.shards, " processes compute, on ", cores,
                                     " cores; ", usable, "; start fewer --shards"));
    }
    plan_.cores = SplitCores(cores, plan_.routers, plan_.shards);
    plan_.cpus = AssignCpus(plan_.cores, SortByLocality(cpus));
    return absl::OkStatus();
  }

  absl::Status PrepareDirectory(const CommandContext& context) {
    if (plan_.run_directory.empty()) {
      absl::StatusOr<std::string> made = MakeRunDirectory(context.temporary_directory);
      if (!made.ok()) return absl::InternalError(absl::StrCat(made.status().message(), "; choose one with --run-dir"));
      plan_.run_directory = *std::move(made);
      temporary_directory_ = true;
      return absl::OkStatus();
    }
    std::error_code error;
    std::filesystem::create_directories(plan_.run_directory, error);
    if (error) {
      return absl::InternalError(absl::StrCat("cannot create --run-dir ", plan_.run_directory, ": ", error.message()));
    }
    return CheckNotInUse(plan_.run_directory);
  }

  ClusterPlan plan_;
  int cores_ = 0;  // to share out; 0: all
  bool pin_ = false;
  bool temporary_directory_ = false;
};

}  // namespace

std::unique_ptr<Command> NewUpCommand() { return std::make_unique<UpCommand>(); }

}  // namespace conclave
