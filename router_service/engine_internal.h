// The engine over any transformer: what Engine::Create ends in, and where tests put a fake one.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_INTERNAL_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_INTERNAL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "moe/base/clock.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/expert_pool.h"
#include "moe/model/transformer.h"
#include "moe/tensor/dtype.h"
#include "router_service/engine.h"

namespace conclave {

// What an engine's limits come to for one model.
struct EnginePlan {
  int batch_tokens_max = 0;  // rows of one step
  int logit_rows_max = 0;    // of them, rows whose logits are kept
  int context_max = 0;       // tokens of one sequence
  int32_t kv_blocks = 0;
  int kv_block_tokens = 0;   // of each
  TransformerOptions transformer() const;
};

// INVALID_ARGUMENT names the option, with the numbers.
absl::StatusOr<EnginePlan> PlanEngine(const ModelSpec& spec, DType cache_dtype, const EngineOptions& options);

// `transformer` must accept plan.transformer()'s limits, where plan = PlanEngine(spec, cache_dtype, options).
// `threads`, `experts` and `clock` must outlive the engine; it alone calls ParallelFor. Errors as PlanEngine;
// RESOURCE_EXHAUSTED: no memory for the cache.
absl::StatusOr<std::unique_ptr<Engine>> CreateWithTransformer(std::unique_ptr<Transformer> transformer,
                                                              const ModelSpec& spec, DType cache_dtype,
                                                              ThreadPool& threads, ExpertPool& experts,
                                                              const EngineOptions& options,
                                                              Clock* clock = Clock::Real());

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_INTERNAL_H_
