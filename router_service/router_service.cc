#include "router_service/router_service.h"

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "moe/base/limits.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/model_file.h"
#include "moe/daemon/model_name.h"
#include "moe/daemon/peer_list.h"
#include "moe/daemon/target_flags.h"
#include "moe/daemon/thread_flags.h"
#include "moe/daemon/tracing_flags.h"
#include "moe/metrics/metrics.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/dial/dial_shards.h"
#include "moe/transport/nccl/nccl_api.h"
#include "router_service/service.h"
#include "router_service/serving_stack.h"

namespace conclave {
namespace {

constexpr int64_t kShardsFileBytesMax = 1 << 20;

// Addresses from the flag or from the file; the order decides which shard is which.
absl::StatusOr<std::vector<std::string>> ShardAddresses(const RouterServiceOptions& options) {
  std::vector<std::string> shards = options.shards;
  std::string source = "--shard";
  if (!options.shards_file.empty()) {
    source = options.shards_file;
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.shards_file, kShardsFileBytesMax));
    ASSIGN_OR_RETURN(shards, ParsePeerFile(text, source));
    if (shards.empty()) return absl::InvalidArgumentError(absl::StrCat(source, ": names no shard"));
  }
  if (shards.size() > static_cast<size_t>(limits::kShardsMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", shards.size(), " shards; at most ", limits::kShardsMax, " are taken"));
  }
  if (const absl::Status valid = CheckPeers(shards); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", valid.message()));
  }
  return shards;
}

// The engine's messages name its options' fields; users know the flags.
absl::Status NameFlags(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return absl::InvalidArgumentError(
      absl::StrReplaceAll(status.message(), {{"batch_tokens_max", "--max-batch-tokens"},
                                             {"prefill_chunk_tokens_max", "--prefill-chunk-tokens"},
                                             {"prefill_stretch_max", "--prefill-stretch"},
                                             {"sequences_running_max", "--max-running"},
                                             {"sequences_queued_max", "--max-queued"},
                                             {"kv_bytes", "--kv-memory"},
                                             {"kv_block_tokens", "--block-size"},
                                             {"context_max", "--context-max"}}));
}

}  // namespace

void RouterServiceOptions::AddTo(Flags& flags) {
  flags.Add("model", &model, "model directory, or org/name[@revision] in the local Hugging Face cache");
  flags.Add("shard", &shards,
            "host:port of an expert shard, or dns:///host:port or file:///path for all that are there, now and later; "
            "none: experts run in this process");
  flags.Add("discovery-interval", &discovery_interval, "how often dns:/// and file:/// are looked up");
  flags.Add("shards-file", &shards_file, "text file with one host:port of a shard a line, instead of --shard");
  flags.Add("shard-wait", &shard_wait, "how long the shards may take to load");
  flags.Add("shard-grace", &shard_grace, "how long to wait at the start for shards that cannot be reached");
  flags.Add("expert-timeout", &expert_timeout,
            "how long a layer waits for experts, other holders and reloading included, before its requests fail");
  flags.Add("checksum", &checksum, "check what travels to expert shards and back");
  flags.Add("transport", &transport,
            "how activations reach the shards: grpc; ucx; nccl, between GPUs; auto: ucx where a shard offers it and it "
            "works, else grpc");
  flags.Add("row-format", &row_format,
            "what rows on their way to experts are rounded to: compute: what experts compute in; fp8: eight bits and a "
            "scale for each 128 values, which halves what is sent and changes answers a little");
  flags.Add("allow-mixed-numerics", &allow_mixed_numerics,
            "accept shards that compute in another way than this process");
  AddTargetFlags(flags, target);
  AddThreadFlags(flags, threads);
  flags.Add("load", &load, "bring the weights into memory before saying ready");
  flags.AddBytes("kv-memory", &engine.kv_bytes, "memory of the KV cache");
  flags.Add("kv-format", &kv_format,
            "what cached latents are rounded to: compute: what attention computes in; fp8: eight bits and a scale for "
            "each 128 values, which takes about half of the memory or less and changes answers a little");
  flags.Add("block-size", &engine.kv_block_tokens,
            "tokens of a KV block: 16, 32 or 64; smaller ones find more of equal beginnings, GPUs read larger ones "
            "faster; 0: 64 on a GPU, else 16");
  flags.Add("prefix-cache", &engine.prefix_cache,
            "share the KV blocks of equal beginnings, and keep them while there is room");
  flags.Add("context-max", &engine.context_max, "tokens of a prompt and its answer; 0: the model's limit");
  flags.Add("max-batch-tokens", &engine.batch_tokens_max, "rows of one step over all sequences");
  flags.Add("prefill-chunk-tokens", &engine.prefill_chunk_tokens_max, "prompt rows of one sequence in one step");
  flags.Add("prefill-stretch", &engine.prefill_stretch_max,
            "a step with prefill may take so many times as long as one that only decodes; 0: no limit");
  flags.Add("max-running", &engine.sequences_running_max, "sequences that run at once");
  flags.Add("max-queued", &engine.sequences_queued_max, "sequences that wait; beyond these requests are refused");
  flags.Add("per-expert-metrics", &per_expert_metrics,
            "show the tokens of every expert of every layer to Prometheus, not of the hottest alone");
  shard_tls.AddTo(flags);
  AddTracingFlags(flags, tracing);
  daemon.AddTo(flags);
}

absl::Status RouterServiceOptions::Validate() const {
  if (model.empty()) return absl::InvalidArgumentError("--model: missing; give a model directory");
  RETURN_IF_ERROR(target.Validate());
  if (discovery_interval <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--discovery-interval: must be positive");
  }
  if (expert_timeout <= absl::ZeroDuration()) return absl::InvalidArgumentError("--expert-timeout: must be positive");
  RETURN_IF_ERROR(PlanThreads(threads).status());
  if (!shards.empty() && !shards_file.empty()) {
    return absl::InvalidArgumentError("--shard and --shards-file: give one of them");
  }
  if (const auto kind = ParseTransportKind(transport); !kind.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--transport: ", kind.status().message()));
  }
  if (const auto format = ParseRowFormat(row_format); !format.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--row-format: ", format.status().message()));
  }
  if (const auto format = ParseRowFormat(kv_format); !format.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-format: ", format.status().message()));
  }
  RETURN_IF_ERROR(tracing.Validate());
  RETURN_IF_ERROR(ShardAddresses(*this).status());
  return NameFlags(engine.Validate());
}

absl::Status RunRouterService(const RouterServiceOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  ASSIGN_OR_RETURN(const ThreadPlan threads, PlanAndKeepThreads(options.threads));
  if (options.transport == "nccl") RETURN_IF_ERROR(LoadNccl().status());  // before there are threads
  // The stack outlives the server, whose calls use it, though the server's ports open first.
  const auto metrics = Metrics::Create();
  std::unique_ptr<Tracer> tracer;
  std::unique_ptr<ServingStack> stack;
  const auto service = RouterGrpcService::Create(*metrics, options.per_expert_metrics);
  ASSIGN_OR_RETURN(const auto daemon, Daemon::Create(options.daemon, {service->service()}, *metrics));
  // Only now: signals are to reach no other thread than the daemon's.
  tracer = Tracer::Create(options.tracing, "conclave-router", options.daemon.name, *metrics);
  service->SetTracer(tracer.get());

  const absl::Time begin = absl::Now();
  ServingStackOptions stack_options;
  ASSIGN_OR_RETURN(stack_options.directory, ResolveModelDir(options.model, options.hub));
  stack_options.model_id = ModelName(options.model, stack_options.directory);
  ASSIGN_OR_RETURN(stack_options.shards, ShardAddresses(options));
  stack_options.discovery_interval = options.discovery_interval;
  stack_options.shard_wait = options.shard_wait;
  stack_options.shard_grace = options.shard_grace;
  stack_options.expert_timeout = options.expert_timeout;
  stack_options.checksum = options.checksum;
  ASSIGN_OR_RETURN(stack_options.transport, ParseTransportKind(options.transport));
  ASSIGN_OR_RETURN(stack_options.row_format, ParseRowFormat(options.row_format));
  stack_options.router_name = options.daemon.name;
  stack_options.allow_mixed_numerics = options.allow_mixed_numerics;
  stack_options.target = options.target;
  stack_options.threads = threads;
  stack_options.load = options.load;
  ASSIGN_OR_RETURN(stack_options.shard_credentials, NewChannelCredentials(options.shard_tls, metrics.get()));
  // Null says that nothing is encrypted, and so lets rows travel over UCX, which encrypts nothing.
  if (!options.shard_tls.enabled()) stack_options.shard_credentials = nullptr;
  stack_options.engine = options.engine;
  ASSIGN_OR_RETURN(stack_options.engine.kv_format, ParseRowFormat(options.kv_format));
  absl::StatusOr<std::unique_ptr<ServingStack>> created = ServingStack::Create(stack_options, *metrics);
  if (!created.ok()) return NameFlags(created.status());
  stack = *std::move(created);

  service->SetEngine(&stack->engine(), stack->identity(), [&stack] { return stack->ExpertMap(); });
  daemon->SetServing(true);
  LogInfo(absl::StrCat(
      "serving ", stack->identity().model_id, " at ", daemon->grpc_address(), " with ",
      stack_options.shards.empty() ? "local experts" : absl::StrCat(stack->ExpertMap().shards.size(), " shards"), ", ",
      stack->identity().numeric_profile, ", ready in ", absl::FormatDuration(absl::Now() - begin)));
  return daemon->Run([&service](absl::Time deadline) { service->Drain(deadline); });
}

}  // namespace conclave
