#include "router_service/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/clock.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/transformer.h"
#include "router_service/engine_internal.h"
#include "router_service/kv_cache.h"

namespace conclave {
namespace {

// Logits of a step are kept in one buffer; it need not hold a row for every row of a large batch and vocabulary.
constexpr int64_t kLogitBytesMax = int64_t{64} << 20;

absl::Status InRange(absl::string_view field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be in [", least, ", ", most, "]"));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  constexpr int kSequencesMax = 1 << 16;
  // One expert may get every row of a step, and shards refuse calls beyond kCallRowsMax.
  RETURN_IF_ERROR(InRange("batch_tokens_max", batch_tokens_max, 1, limits::kCallRowsMax));
  RETURN_IF_ERROR(InRange("prefill_chunk_tokens_max", prefill_chunk_tokens_max, 1, limits::kCallRowsMax));
  RETURN_IF_ERROR(InRange("sequences_running_max", sequences_running_max, 1, kSequencesMax));
  RETURN_IF_ERROR(InRange("sequences_queued_max", sequences_queued_max, 1, kSequencesMax));
  RETURN_IF_ERROR(InRange("kv_bytes", kv_bytes, 1, int64_t{1} << 50));
  RETURN_IF_ERROR(InRange("context_max", context_max, 0, limits::kContextMax));
  if (kv_block_tokens != 0 && !IsKvBlockSize(kv_block_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("kv_block_tokens is ", kv_block_tokens, "; it must be 16, 32 or 64, "
                                                   "or 0 for what suits the device"));
  }
  if (!(prefill_stretch_max == 0 || (prefill_stretch_max > 1 && prefill_stretch_max <= 1000))) {
    return absl::InvalidArgumentError(absl::StrCat("prefill_stretch_max is ", prefill_stretch_max,
                                                   "; it must be above 1 and at most 1000, or 0 for no limit"));
  }
  return absl::OkStatus();
}

TransformerOptions EnginePlan::transformer() const {
  return {.rows_max = batch_tokens_max, .logit_rows_max = logit_rows_max, .context_max = context_max};
}

absl::StatusOr<EnginePlan> PlanEngine(const ModelSpec& spec, DType cache_dtype, const EngineOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  if (options.context_max > spec.context_max) {
    return absl::InvalidArgumentError(absl::StrCat("context_max is ", options.context_max,
                                                   ", more than the model's own limit of ", spec.context_max));
  }
  EnginePlan plan;
  plan.batch_tokens_max = options.batch_tokens_max;
  plan.context_max = options.context_max > 0 ? options.context_max : spec.context_max;

  const int64_t row_bytes = int64_t{spec.vocab} * static_cast<int64_t>(sizeof(float));
  const int64_t logit_rows = std::max<int64_t>(options.sequences_running_max, kLogitBytesMax / row_bytes);
  plan.logit_rows_max = static_cast<int>(std::min<int64_t>(options.batch_tokens_max, logit_rows));

  plan.kv_block_tokens = options.kv_block_tokens > 0 ? options.kv_block_tokens : kKvBlockTokens;
  const int64_t block_bytes = KvBlockBytes(spec, cache_dtype, plan.kv_block_tokens);
  const int64_t sequence_blocks = BlocksFor(plan.context_max, plan.kv_block_tokens);
  const int64_t blocks = options.kv_bytes / block_bytes;
  if (blocks < sequence_blocks) {
    const std::string room = absl::StrCat(blocks * plan.kv_block_tokens, " tokens");
    return absl::InvalidArgumentError(absl::StrCat("kv_bytes is ", options.kv_bytes, ", room for ", room,
                                                   "; one sequence of context_max ", plan.context_max, " tokens needs ",
                                                   sequence_blocks * block_bytes,
                                                   ": raise kv_bytes or lower context_max"));
  }
  // More than all running sequences can ever fill would only cost memory.
  const int64_t useful = std::min<int64_t>(sequence_blocks * options.sequences_running_max, int64_t{1} << 30);
  plan.kv_blocks = static_cast<int32_t>(std::min(blocks, useful));
  return plan;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                       ThreadPool& threads, ExpertPool& experts,
                                                       const EngineOptions& options) {
  const DType cache_dtype = CacheDType(kernels.compute, options.kv_format);
  ASSIGN_OR_RETURN(const EnginePlan plan, PlanEngine(checkpoint.spec(), cache_dtype, options));
  ASSIGN_OR_RETURN(auto transformer, Transformer::Create(checkpoint, kernels, threads, plan.transformer()));
  return CreateWithTransformer(std::move(transformer), checkpoint.spec(), cache_dtype, threads, experts, options,
                               Clock::Real());
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Checkpoint& checkpoint, ComputeTarget& target,
                                                       ThreadPool& threads, ExpertPool& experts, ExpertPool* local,
                                                       const EngineOptions& wanted) {
  EngineOptions options = wanted;
  if (options.kv_block_tokens == 0) options.kv_block_tokens = target.kv_block_tokens();
  const DType cache_dtype = target.cache_dtype(checkpoint.spec(), options.kv_format);
  ASSIGN_OR_RETURN(const EnginePlan plan, PlanEngine(checkpoint.spec(), cache_dtype, options));
  TransformerOptions transformer_options = plan.transformer();
  transformer_options.rows_elsewhere = experts.row_device();
  ASSIGN_OR_RETURN(auto transformer, target.MakeTransformer(checkpoint, threads, local, transformer_options));
  return CreateWithTransformer(std::move(transformer), checkpoint.spec(), cache_dtype, threads, experts, options,
                               Clock::Real());
}

}  // namespace conclave
