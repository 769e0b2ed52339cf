#include "cli/local_cluster.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "expert_service/expert_shard.h"
#include "expert_service/row_memory.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/grammar/token_trie.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/dial/dial_shards.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/grpc/grpc_shard_control.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "moe/transport/transport.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "router_service/remote_experts.h"
#include "router_service/shard_gathering.h"

namespace conclave {
namespace {

// The engine's options for this model: a KV cache no larger than its sequences can fill, a context no longer than that
// cache holds, and chunks as asked for.
EngineOptions FitOptions(const LocalClusterFlags& flags, const ModelSpec& spec, const ComputeTarget& target,
                         EngineOptions options) {
  if (flags.prefill_chunk > 0) options.prefill_chunk_tokens_max = flags.prefill_chunk;
  if (options.context_max == 0) options.context_max = spec.context_max;
  options.kv_block_tokens = flags.block_size > 0 ? flags.block_size : target.kv_block_tokens();
  const DType cache_dtype = target.cache_dtype(spec, options.kv_format);
  const int64_t block_bytes = KvBlockBytes(spec, cache_dtype, options.kv_block_tokens);
  const int64_t blocks_each = options.context_max / options.kv_block_tokens + 1;
  options.kv_bytes = std::min(options.kv_bytes, options.sequences_running_max * blocks_each * block_bytes);
  const int64_t tokens = options.kv_bytes / block_bytes * options.kv_block_tokens;
  options.context_max = static_cast<int>(std::min<int64_t>(options.context_max, tokens));
  return options;
}

class LocalClusterImpl final : public LocalCluster {
 public:
  // Members are filled in by Create below and die in reverse order: the engine first, the checkpoint last.
  const Checkpoint& checkpoint() const override { return *checkpoint_; }
  Engine& engine() override { return *engine_; }

  std::vector<ShardHoldings> Holdings() const override {
    if (!holdings_.empty()) return holdings_;
    ShardHoldings here{"this process", {}};
    const ModelSpec& spec = checkpoint_->spec();
    for (int layer = 0; layer < spec.layers; ++layer) {
      if (!spec.IsMoe(LayerId{layer})) continue;
      here.holdings.push_back({LayerId{layer}, ExpertsOfShard(spec.gate.experts, 0, 1)});
    }
    return {here};
  }

  absl::Status Start(const LocalClusterFlags& flags, const HubEnvironment& hub, const EngineOptions& options) {
    ASSIGN_OR_RETURN(target_, ComputeTarget::Create(flags.target));
    kernels_ = &target_->kernels();
    ASSIGN_OR_RETURN(const std::string directory, ResolveModelDir(flags.model, hub));
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(directory));
    ASSIGN_OR_RETURN(const ThreadPlan threads, PlanAndKeepThreads(flags.threads));
    threads_.emplace(threads.threads, threads.cpus);
    EngineOptions wanted = options;
    ASSIGN_OR_RETURN(wanted.kv_format, ParseRowFormat(flags.kv_format));
    if (flags.vocabulary) {
      const ModelSpec& spec = checkpoint_->spec();
      ASSIGN_OR_RETURN(wanted.vocabulary, TokenTrie::Load(directory, spec.vocab, spec.eos_ids));
    }
    const EngineOptions fitted = FitOptions(flags, checkpoint_->spec(), *target_, wanted);
    ASSIGN_OR_RETURN(row_format_, ParseRowFormat(flags.row_format));
    const bool local_experts = flags.shards == 0 && flags.shard_addresses.empty();
    if (local_experts) {
      ASSIGN_OR_RETURN(experts_, target_->MakeLocalExperts(*checkpoint_, *threads_, fitted.batch_tokens_max,
                                                           row_format_));
    } else if (!flags.shard_addresses.empty()) {
      RETURN_IF_ERROR(ConnectProcesses(flags, fitted.batch_tokens_max));
    } else {
      RETURN_IF_ERROR(StartShards(flags, std::max(1, threads.threads / flags.shards)));
      RETURN_IF_ERROR(ConnectShards(flags.transport, fitted.batch_tokens_max));
    }
    ExpertPool* const local = local_experts ? experts_.get() : nullptr;
    ASSIGN_OR_RETURN(engine_, Engine::Create(*checkpoint_, *target_, *threads_, *experts_, local, fitted));
    return absl::OkStatus();
  }

 private:
  // Each shard has a queue of its own on the device, as it would in a process of its own.
  absl::Status StartShards(const LocalClusterFlags& flags, int threads_each) {
    for (int index = 0; index < flags.shards; ++index) {
      ASSIGN_OR_RETURN(shard_targets_.emplace_back(), ComputeTarget::Create(flags.target));
      ExpertShardOptions options;
      options.name = absl::StrCat("expert-", index);
      options.shard_index = index;
      options.shard_count = flags.shards;
      options.kernels = &shard_targets_.back()->kernels();
      options.device = shard_targets_.back()->memory();
      options.threads.threads = threads_each;
      ASSIGN_OR_RETURN(shards_.emplace_back(), ExpertShard::Create(options, *checkpoint_));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<NcclExpertServer*> StartNccl(ExpertShard& shard, ComputeTarget& target) {
    if (target.memory() == nullptr) return absl::InvalidArgumentError("--transport nccl: it needs --device cuda");
    const DType row_dtype = RowDType(kernels_->compute);
    RETURN_IF_ERROR(ReserveNcclPairs(checkpoint_->spec(), row_dtype, /*routers=*/1, *target.memory()));
    NcclExpertServerOptions options;
    ASSIGN_OR_RETURN(options.api, LoadNccl());
    options.new_stream = [&target] { return target.memory()->accelerator().NewStream(); };
    options.gpu = target.memory()->accelerator().info().uuid;
    ASSIGN_OR_RETURN(nccl_servers_.emplace_back(), NcclExpertServer::Start(options));
    nccl_servers_.back()->SetHandler(&shard);
    return nccl_servers_.back().get();
  }

  // Through servers of this process, as if the shards were elsewhere.
  absl::Status ConnectOverSockets(const std::string& transport) {
    std::vector<std::string> addresses;
    for (const auto& shard : shards_) {
      UcxExpertServer* ucx = nullptr;
      NcclExpertServer* nccl = nullptr;
      if (transport == "ucx") {
        DeviceMemory* const device = shard_targets_[servers_.size()]->memory();
        UcxExpertServerOptions options;
        if (device != nullptr) options.memory = PinnedMemory(device->accelerator());
        ASSIGN_OR_RETURN(ucx_servers_.emplace_back(), UcxExpertServer::Start(options));
        ucx = ucx_servers_.back().get();
        ucx->SetHandler(shard.get());
      }
      if (transport == "nccl") {
        ASSIGN_OR_RETURN(nccl, StartNccl(*shard, *shard_targets_[servers_.size()]));
      }
      ASSIGN_OR_RETURN(servers_.emplace_back(), GrpcExpertServer::Start("127.0.0.1:0", *shard, ucx, nullptr, nccl));
      addresses.push_back(servers_.back()->address());
    }
    return Dial(addresses, transport);
  }

  absl::Status Dial(const std::vector<std::string>& addresses, const std::string& transport) {
    DialOptions options;
    ASSIGN_OR_RETURN(options.kind, ParseTransportKind(transport));
    options.model_fingerprint = checkpoint_->fingerprint();
    options.numeric_profile = NumericProfile(*kernels_);
    if (target_->memory() != nullptr) options.accelerator = &target_->memory()->accelerator();
    ASSIGN_OR_RETURN(transport_, DialShards(addresses, options));
    return absl::OkStatus();
  }

  // The pool over a transport to the shards of other processes.
  absl::Status ConnectProcesses(const LocalClusterFlags& flags, int rows_max) {
    const auto control = NewGrpcShardControl(flags.shard_addresses, checkpoint_->fingerprint(), nullptr);
    ASSIGN_OR_RETURN(const auto descriptions, GatherShards(*control, flags.shard_addresses, {}, &absl::SleepFor));
    RETURN_IF_ERROR(Dial(flags.shard_addresses, flags.transport));
    return MakePool(descriptions, rows_max);
  }

  // The pool over a transport to the shards of this process.
  absl::Status ConnectShards(const std::string& transport, int rows_max) {
    if (transport != "inproc") {
      RETURN_IF_ERROR(ConnectOverSockets(transport));
    } else {
      std::vector<ExpertHandler*> handlers;
      for (const auto& shard : shards_) handlers.push_back(shard.get());
      transport_ = std::make_unique<InprocTransport>(std::move(handlers));
    }
    std::vector<ShardDescription> descriptions;
    for (const auto& shard : shards_) descriptions.push_back(shard->Describe());
    return MakePool(descriptions, rows_max);
  }

  absl::Status MakePool(const std::vector<ShardDescription>& descriptions, int rows_max) {
    for (const ShardDescription& shard : descriptions) holdings_.push_back({shard.name, shard.holdings});
    RemoteExpertsOptions pool_options;
    pool_options.rows_max = rows_max;
    pool_options.row_format = row_format_;
    pool_options.memory = target_->pinned_memory();
    pool_options.model_fingerprint = checkpoint_->fingerprint();
    ASSIGN_OR_RETURN(experts_,
                     RemoteExperts::Create(checkpoint_->spec(), *kernels_, *transport_, descriptions, pool_options));
    return absl::OkStatus();
  }

  std::unique_ptr<ComputeTarget> target_;
  const Kernels* kernels_ = nullptr;  // target_'s
  RowFormat row_format_ = RowFormat::kCompute;
  std::vector<std::unique_ptr<ComputeTarget>> shard_targets_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::optional<ThreadPool> threads_;
  std::vector<std::unique_ptr<ExpertShard>> shards_;
  std::vector<ShardHoldings> holdings_;  // of each shard; empty: without shards
  std::vector<std::unique_ptr<UcxExpertServer>> ucx_servers_;
  std::vector<std::unique_ptr<NcclExpertServer>> nccl_servers_;
  std::vector<std::unique_ptr<GrpcExpertServer>> servers_;
  std::unique_ptr<ExpertPool> experts_;
  std::unique_ptr<Transport> transport_;  // dies before the pool, which its calls would report to
  std::unique_ptr<Engine> engine_;
};

}  // namespace

void LocalClusterFlags::Declare(CommandFlags& flags) {
  flags.Add("model", &model, "DIR", "load a model here: a directory, or org/name[@revision] in the Hugging Face cache");
  CommandFlag& shard_count =
      flags.Add("shards", &shards, "N", "run the experts on N shards in this process; 0: without shards");
  shard_count.minimum = 0;
  shard_count.maximum = 256;
  flags.Add("transport", &transport, "NAME", "how activations reach the shards").choices = {"inproc", "grpc", "ucx",
                                                                                            "nccl"};
  flags.Add("row-format", &row_format, "NAME",
            "what rows on their way to experts are rounded to; compute: what experts compute in")
      .choices = {"compute", "fp8"};
  flags.Add("kv-format", &kv_format, "NAME", "what cached latents are rounded to; compute: what attention computes in")
      .choices = {"compute", "fp8"};
  flags.Add("block-size", &block_size, "N", "tokens of a KV block: 16, 32 or 64; 0: 64 on a GPU, else 16").minimum = 0;
  DeclareTarget(flags, target);
  DeclareThreads(flags, threads);
  CommandFlag& chunk =
      flags.Add("prefill-chunk", &prefill_chunk, "N", "prompt rows in one step; 0: the engine's default");
  chunk.minimum = 0;
  chunk.maximum = limits::kCallRowsMax;
  chunk.hidden = true;
}

absl::Status LocalClusterFlags::Validate() const {
  if (model.empty()) return UsageError("--model is missing: name the model's directory, such as --model models/demo");
  if (block_size != 0 && !IsKvBlockSize(block_size)) {
    return UsageError(
        absl::StrCat("--block-size is ", block_size, "; it must be 16, 32 or 64, or 0 for what suits the device"));
  }
  RETURN_IF_ERROR(ValidateThreads(threads));
  return ValidateTarget(target);
}

void DeclareTarget(CommandFlags& flags, TargetOptions& options) {
  flags.Add("device", &options.device, "NAME", "what to compute on: cpu, cuda or cuda:N");
  flags.Add("compute", &options.compute, "TYPE", "numbers to compute in; auto: bf16 where the device has it, else f32")
      .choices = {"auto", "f32", "bf16", "int8", "fp8"};
  flags.Add("gpu-memory", ByteCount{&options.gpu_memory_bytes}, "SIZE",
            "memory of the GPU that may be used; 0: nearly all that is free");
  flags.Add("isa", &options.isa, "NAME", "force a CPU kernel set: scalar, avx2, avx512, avx512-bf16, amx").hidden =
      true;
}

absl::Status ValidateTarget(const TargetOptions& options) {
  const absl::Status status = options.Validate();
  return status.ok() ? status : UsageError(status.message());
}

void DeclareThreads(CommandFlags& flags, ThreadOptions& options) {
  CommandFlag& threads = flags.Add("threads", &options.threads, "N", "cores to use; 0: all, or all of --cpus");
  threads.minimum = 0;
  threads.maximum = limits::kThreadsMax;
  flags.Add("cpus", &options.cpus, "LIST", "CPUs such as 0-3,8 to keep to, one thread pinned to each; empty: any");
}

absl::Status ValidateThreads(const ThreadOptions& options) {
  const absl::StatusOr<ThreadPlan> plan = PlanThreads(options);
  return plan.ok() ? absl::OkStatus() : UsageError(plan.status().message());
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Create(const LocalClusterFlags& flags,
                                                                   const HubEnvironment& hub, EngineOptions options) {
  auto cluster = std::make_unique<LocalClusterImpl>();
  RETURN_IF_ERROR(cluster->Start(flags, hub, options));
  return cluster;
}

}  // namespace conclave
