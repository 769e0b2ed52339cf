#include "cli/bench_placement.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/cluster_runner.h"
#include "cli/core_split.h"
#include "cli/run_directory.h"
#include "cli/service_binaries.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_options.h"

namespace conclave {
namespace {

constexpr int kShardsMax = 256;

class PlacedModelImpl final : public PlacedModel {
 public:
  absl::Status Start(const BenchPlacement& placement, LocalClusterFlags flags, const CommandContext& context,
                     const EngineOptions& options, const SamplingParams& sampling) {
    flags.transport = placement.transport;
    flags.shards = placement.shards;
    if (placement.transport != "inproc") RETURN_IF_ERROR(StartProcesses(placement, flags, context));
    ASSIGN_OR_RETURN(cluster_, LocalCluster::Create(flags, context.hub, options));
    timer_.emplace(*cluster_, sampling);
    return absl::OkStatus();
  }

  ModelTimer& timer() override { return *timer_; }

  absl::Status Stop() override {
    timer_.reset();
    cluster_.reset();
    if (processes_ == nullptr) return absl::OkStatus();
    RETURN_IF_ERROR(processes_->Stop());
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
    return absl::OkStatus();
  }

 private:
  absl::Status StartProcesses(const BenchPlacement& placement, LocalClusterFlags& flags,
                              const CommandContext& context) {
    ASSIGN_OR_RETURN(const ThreadPlan threads, PlanThreads(flags.threads));
    ASSIGN_OR_RETURN(directory_, MakeRunDirectory(context.temporary_directory));
    ClusterPlan plan;
    plan.model = flags.model;
    plan.shards = placement.shards;
    plan.transport = placement.transport;
    plan.target = flags.target;
    plan.cores = ShareCores(threads.threads, 1, placement.shards);
    plan.run_directory = directory_;
    ASSIGN_OR_RETURN(plan.expert_binary, FindServiceBinary(context.binary_directory, "expert_service"));
    flags.threads.threads = plan.cores.routers[0];
    processes_ = std::make_unique<ClusterRunner>(std::move(plan), [](absl::string_view) {});
    RETURN_IF_ERROR(processes_->StartShards());
    for (const ClusterProcess& shard : processes_->processes()) flags.shard_addresses.push_back(shard.grpc);
    return absl::OkStatus();
  }

  std::string directory_;
  std::unique_ptr<ClusterRunner> processes_;  // null: shards in this process
  std::unique_ptr<LocalCluster> cluster_;
  std::optional<ModelTimer> timer_;
};

}  // namespace

std::string BenchPlacement::Name() const { return absl::StrCat(transport, ":", shards); }

absl::StatusOr<std::vector<BenchPlacement>> ParseBenchPlacements(absl::string_view text) {
  std::vector<BenchPlacement> placements;
  for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    BenchPlacement placement{parts[0]};
    const bool known = parts[0] == "inproc" || parts[0] == "ucx" || parts[0] == "grpc";
    if (parts.size() != 2 || !known || !absl::SimpleAtoi(parts[1], &placement.shards) || placement.shards < 1 ||
        placement.shards > kShardsMax) {
      return UsageError(absl::StrCat("--against takes inproc:N, ucx:N and grpc:N with commas between them, N from 1 ",
                                     "to ", kShardsMax, "; '", word, "' is none"));
    }
    placements.push_back(std::move(placement));
  }
  return placements;
}

absl::StatusOr<std::unique_ptr<PlacedModel>> PlacedModel::Create(const BenchPlacement& placement,
                                                                 const LocalClusterFlags& flags,
                                                                 const CommandContext& context,
                                                                 const EngineOptions& options,
                                                                 const SamplingParams& sampling) {
  auto model = std::make_unique<PlacedModelImpl>();
  RETURN_IF_ERROR(model->Start(placement, flags, context, options, sampling));
  return model;
}

}  // namespace conclave
