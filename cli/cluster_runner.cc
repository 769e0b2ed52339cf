#include "cli/cluster_runner.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "moe/base/cpus.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/health_client.h"

namespace conclave {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr absl::Duration kHealthTimeout = absl::Seconds(2);
// Longer than the services' own time to drain, which they keep to themselves.
constexpr absl::Duration kStopTimeout = absl::Seconds(30);

// How far loading is, by the last line of a service's log, such as "I 2026-11-23T10:00:00.123Z expert-2: loading: 3 of
// 8 experts"; empty where the line tells of something else.
std::string LoadProgress(const std::string& line) {
  const size_t begin = line.find("loading: ");
  return begin == std::string::npos ? "" : line.substr(begin + 9);
}

// "a=1 b" as --a=1 and --b.
void AppendFlags(const std::string& flags, ProcessSpec& spec) {
  for (const absl::string_view flag : absl::StrSplit(flags, ' ', absl::SkipEmpty())) {
    spec.arguments.push_back(absl::StrCat("--", flag));
  }
}

}  // namespace

ClusterRunner::ClusterRunner(ClusterPlan plan, std::function<void(absl::string_view)> progress)
    : plan_(std::move(plan)), progress_(std::move(progress)) {}

std::string ClusterRunner::AddressFileOf(const std::string& name) const {
  return absl::StrCat(plan_.run_directory, "/", name, ".json");
}

std::string ClusterRunner::LogOf(const std::string& name) const {
  return absl::StrCat(plan_.run_directory, "/", name, ".log");
}

ProcessSpec ClusterRunner::SpecFor(const std::string& role, const std::string& name, const std::string& binary) const {
  ProcessSpec spec{role, name, binary, {}, LogOf(name)};
  spec.arguments = {absl::StrCat("--name=", name), absl::StrCat("--model=", plan_.model),
                    absl::StrCat("--address-file=", AddressFileOf(name))};
  return spec;
}

void ClusterRunner::AddTarget(ProcessSpec& spec) const {
  spec.arguments.insert(spec.arguments.end(), {absl::StrCat("--device=", plan_.target.device),
                                               absl::StrCat("--compute=", plan_.target.compute),
                                               absl::StrCat("--gpu-memory=", plan_.target.gpu_memory_bytes)});
  if (!plan_.target.isa.empty()) spec.arguments.push_back(absl::StrCat("--isa=", plan_.target.isa));
}

void ClusterRunner::AddThreads(ProcessSpec& spec, int threads, int process) const {
  spec.arguments.push_back(absl::StrCat("--threads=", threads));
  if (plan_.cpus.empty()) return;
  spec.arguments.push_back(absl::StrCat("--cpus=", FormatCpuList(plan_.cpus[static_cast<size_t>(process)])));
}

absl::Status ClusterRunner::Launch(ProcessSpec spec) {
  // Files of an earlier run in the same directory must not be taken for this one's.
  std::remove(AddressFileOf(spec.name).c_str());
  std::remove(spec.log_path.c_str());
  ClusterProcess process;
  process.role = spec.role;
  process.name = spec.name;
  ASSIGN_OR_RETURN(process.pid, group_.Start(std::move(spec)));
  processes_.push_back(process);
  return absl::OkStatus();
}

absl::Status ClusterRunner::LaunchShards() {
  for (int shard = 0; shard < plan_.shards; ++shard) {
    ProcessSpec spec = SpecFor("expert", absl::StrCat("expert-", shard), plan_.expert_binary);
    spec.arguments.insert(spec.arguments.end(),
                          {absl::StrCat("--shard-index=", shard), absl::StrCat("--shard-count=", plan_.shards),
                           absl::StrCat("--replicas=", plan_.replicas)});
    AddThreads(spec, plan_.cores.shards[static_cast<size_t>(shard)], plan_.routers + shard);
    AddTarget(spec);
    // All processes are on this machine, so that nothing need listen beyond its loopback device.
    if (plan_.transport == "nccl") {
      spec.arguments.push_back("--nccl-address=127.0.0.1:0");
      spec.arguments.push_back(absl::StrCat("--nccl-routers=", plan_.routers));
    } else if (plan_.transport != "grpc") {
      spec.arguments.push_back("--ucx-address=127.0.0.1:0");
    }
    AppendFlags(plan_.expert_flags, spec);
    RETURN_IF_ERROR(Launch(std::move(spec)));
  }
  return absl::OkStatus();
}

absl::Status ClusterRunner::LaunchRouters() {
  std::vector<std::string> shards;
  for (const ClusterProcess& process : processes_) shards.push_back(absl::StrCat("--shard=", process.grpc));
  for (int router = 0; router < plan_.routers; ++router) {
    const std::string name = plan_.routers == 1 ? "router" : absl::StrCat("router-", router);
    ProcessSpec spec = SpecFor("router", name, plan_.router_binary);
    AddThreads(spec, plan_.cores.routers[static_cast<size_t>(router)], router);
    AddTarget(spec);
    spec.arguments.insert(spec.arguments.end(), shards.begin(), shards.end());
    if (plan_.shards > 0) spec.arguments.push_back(absl::StrCat("--transport=", plan_.transport));
    AppendFlags(plan_.router_flags, spec);
    RETURN_IF_ERROR(Launch(std::move(spec)));
  }
  return absl::OkStatus();
}

absl::Status ClusterRunner::LaunchGateway() {
  ProcessSpec spec = SpecFor("gateway", "gateway", plan_.gateway_binary);
  spec.arguments.insert(spec.arguments.end(), {absl::StrCat("--grpc-address=127.0.0.1:", plan_.grpc_port),
                                               absl::StrCat("--http-address=127.0.0.1:", plan_.http_port),
                                               absl::StrCat("--metrics-address=127.0.0.1:", plan_.metrics_port)});
  for (const ClusterProcess& process : processes_) {
    if (process.role == "router") spec.arguments.push_back(absl::StrCat("--router=", process.grpc));
  }
  AppendFlags(plan_.gateway_flags, spec);
  return Launch(std::move(spec));
}

absl::Status ClusterRunner::LaunchPlacement() {
  if (!plan_.rebalance) return absl::OkStatus();
  ProcessSpec spec{"placement", "placement", plan_.placement_binary, {}, LogOf("placement")};
  spec.arguments = {"--name=placement", absl::StrCat("--address-file=", AddressFileOf("placement"))};
  for (const ClusterProcess& process : processes_) {
    if (process.role == "expert") spec.arguments.push_back(absl::StrCat("--shard=", process.grpc));
  }
  AppendFlags(plan_.placement_flags, spec);
  return Launch(std::move(spec));
}

absl::Status ClusterRunner::CheckStarting(absl::Duration wait) {
  if (AsksToEnd(WaitForSignal(wait))) return absl::CancelledError("asked to end while starting");
  const std::vector<EndedProcess> ended = group_.TakeEnded();
  return ended.empty() ? absl::OkStatus() : absl::UnavailableError(ended[0].message);
}

absl::Status ClusterRunner::WaitForAddresses() {
  for (ClusterProcess& process : processes_) {
    while (process.grpc.empty()) {
      absl::StatusOr<ClusterProcess> addresses = ReadAddressFile(AddressFileOf(process.name));
      if (addresses.ok()) {
        process.grpc = addresses->grpc;
        process.http = addresses->http;
        process.metrics = addresses->metrics;
        break;
      }
      if (!absl::IsNotFound(addresses.status())) return addresses.status();
      RETURN_IF_ERROR(CheckStarting(kPoll));
    }
  }
  return absl::OkStatus();
}

void ClusterRunner::TellProgress(const std::vector<bool>& serving) {
  std::vector<std::string> waiting;
  for (size_t i = 0; i < processes_.size(); ++i) {
    if (serving[i]) continue;
    const std::string loaded = LoadProgress(LastLogLine(LogOf(processes_[i].name)));
    waiting.push_back(absl::StrCat(processes_[i].name, loaded.empty() ? "" : absl::StrCat(" (", loaded, ")")));
  }
  std::string text = absl::StrCat("loading: ", processes_.size() - waiting.size(), " of ", processes_.size(),
                                  " processes ready; waiting for ", absl::StrJoin(waiting, ", "));
  if (waiting.empty() || text == last_progress_) return;
  progress_(text);
  last_progress_ = std::move(text);
}

absl::Status ClusterRunner::WaitUntilServing() {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (const ClusterProcess& process : processes_) {
    channels.push_back(grpc::CreateChannel(process.grpc, grpc::InsecureChannelCredentials()));
  }
  std::vector<bool> serving(processes_.size(), false);
  while (std::count(serving.begin(), serving.end(), false) > 0) {
    for (size_t i = 0; i < channels.size(); ++i) {
      serving[i] = serving[i] || CheckServing(channels[i], "", kHealthTimeout).ok();
    }
    TellProgress(serving);
    RETURN_IF_ERROR(CheckStarting(kPoll));
  }
  return absl::OkStatus();
}

absl::Status ClusterRunner::Start() {
  RETURN_IF_ERROR(LaunchShards());
  RETURN_IF_ERROR(WaitForAddresses());
  RETURN_IF_ERROR(LaunchRouters());
  RETURN_IF_ERROR(WaitForAddresses());
  RETURN_IF_ERROR(LaunchGateway());
  RETURN_IF_ERROR(LaunchPlacement());
  RETURN_IF_ERROR(WaitForAddresses());
  return WaitUntilServing();
}

absl::Status ClusterRunner::StartShards() {
  RETURN_IF_ERROR(LaunchShards());
  RETURN_IF_ERROR(WaitForAddresses());
  return WaitUntilServing();
}

absl::Status ClusterRunner::Publish() const {
  return WriteClusterFile(ClusterFilePath(plan_.run_directory), processes_);
}

absl::Status ClusterRunner::WaitForEnd(const std::function<void(absl::string_view)>& warning) {
  int routers = plan_.routers;
  while (true) {
    if (AsksToEnd(WaitForSignal(absl::Seconds(1)))) return absl::OkStatus();
    for (const EndedProcess& ended : group_.TakeEnded()) {
      if (ended.role == "gateway") return absl::UnavailableError(ended.message);
      if (ended.role == "router" && --routers == 0) return absl::UnavailableError(ended.message);
      warning(ended.message);
    }
  }
}

absl::Status ClusterRunner::Stop() {
  std::remove(ClusterFilePath(plan_.run_directory).c_str());
  return group_.Stop(kStopTimeout);
}

}  // namespace conclave
