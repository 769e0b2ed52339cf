// The step loop of an attention service: Next → Forward → Sample → Commit → stream.
#ifndef CONCLAVE_ROUTER_SERVICE_ENGINE_H_
#define CONCLAVE_ROUTER_SERVICE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/token_trie.h"
#include "moe/kernels/kernels.h"
#include "moe/metrics/metrics.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"
#include "router_service/engine_stats.h"
#include "router_service/finish_reason.h"
#include "router_service/logprobs.h"
#include "router_service/sampler.h"

namespace conclave {

// Limits, fixed at creation.
struct EngineOptions {
  int batch_tokens_max = 512;          // rows of one step
  int prefill_chunk_tokens_max = 256;  // prompt rows of one sequence in one step
  int sequences_running_max = 64;
  int sequences_queued_max = 256;
  int64_t kv_bytes = int64_t{1} << 30;
  RowFormat kv_format = RowFormat::kCompute;  // of cached latents
  int kv_block_tokens = 0;   // of a KV block, which prefixes share as a whole: 16, 32, 64; 0: what suits the target
  int context_max = 0;       // 0: the model's own limit
  bool prefix_cache = true;  // share the KV blocks of equal prefixes, and keep them while there is room
  // A step with prefill may take so many times as long as one that only decodes, where sequences decode: prompts are
  // cut into smaller chunks then. Above 1; 0: no limit.
  double prefill_stretch_max = 2.0;
  std::shared_ptr<const TokenTrie> vocabulary;  // what each id says, for grammars; null: they are refused
  Metrics* metrics = nullptr;     // told about steps; must outlive the engine; null: nobody
  absl::Status Validate() const;  // INVALID_ARGUMENT names the field
};

// What happened to a sequence in one step. `status` is not OK when the sequence failed; it then ends: CANCELLED,
// DEADLINE_EXCEEDED, INTERNAL (a logit that is not a number), or what the expert pool said of the step.
struct TokenEvent {
  SequenceId sequence{0};
  int32_t token = -1;  // -1: none (a failure, or max_tokens is 0)
  FinishReason finish = FinishReason::kNone;
  // Where asked: XXH64 over the float32 logits of every token so far, [tokens, vocab]; where max_tokens is 0, over
  // those that the first token would be drawn from.
  uint64_t logits_hash = 0;
  std::optional<TokenLogprobs> logprobs;  // where asked: of `token`
  // With the first token, or the end that comes without one: of prompt_ids, those found in the prefix cache.
  int32_t cached_tokens = 0;
  // Where asked, as early: one for each of prompt_ids; the first one follows nothing, and is 0.
  std::vector<TokenLogprobs> prompt_logprobs;
  // Where asked, at the end: rows that went to each expert, [layers][experts], dense layers empty. Rows that were
  // computed again after a preemption count once, rows found in the prefix cache not at all.
  std::vector<std::vector<uint32_t>> expert_use;
  // Where asked: of the row that `token` was drawn from, the experts by layer, [layers][top_k], each ascending; dense
  // layers empty.
  std::vector<std::vector<int32_t>> token_experts;
  bool holds_to_grammar = false;  // the request had one
  absl::Time admission = absl::InfinitePast();  // when the sequence left the queue for the first time; else not yet
  absl::Status status;
  bool ended() const { return finish != FinishReason::kNone || !status.ok(); }
};

// Copies of what passed through the model, for `conclave logits` and tests. Called on the engine's thread.
class SequenceObserver {
 public:
  virtual ~SequenceObserver() = default;
  // Logits of the prompt's rows [first_position, first_position + rows.rows), [rows, vocab] F32.
  virtual void OnPromptLogits(int32_t first_position, ConstMatView rows) = 0;
  // The gate's choice for the prompt's rows: experts and weights [rows * top_k].
  virtual void OnPromptRouting(LayerId layer, int32_t first_position, const Routing& routing) = 0;
};

// What to answer, and what to tell beside the answer.
struct EngineRequest {
  std::vector<int32_t> prompt_ids;  // not empty, each in [0, vocab)
  // Resuming: what another engine generated of the same request. The answer goes on behind these, to the same ids, and
  // the same logits_hash, as if they had come from here; they are not sent again.
  std::vector<int32_t> generated_ids;
  SamplingParams sampling;
  // generated_ids count. 0: the prompt is only read, and the answer ends with kLength and without a token.
  int max_tokens = 128;
  int min_tokens = 0;    // ids that would end the answer are not sampled before so many tokens; generated_ids count
  bool ignore_eos = false;
  std::vector<int32_t> stop_ids;    // end the answer as an end-of-sequence id does
  std::optional<int> top_logprobs;  // report log probabilities, with so many of the most likely ids; [0, 64]
  bool prompt_logprobs = false;     // the prompt's too, with as many; needs top_logprobs
  bool hash_logits = false;
  bool report_expert_use = false;
  bool report_token_experts = false;
  SequenceObserver* observer = nullptr;  // must outlive the sequence
  int32_t priority = 0;                  // lower numbers first: each step counts like ten seconds of waiting
  // Tokens that it does not allow are not sampled; an answer ends where it says. generated_ids must be what it allows.
  // Neither beside ignore_eos nor min_tokens.
  std::optional<GrammarSpec> grammar;
  std::string cache_salt;                // shares cached prefixes only with equal salts; at most 256 bytes
  absl::Time deadline = absl::InfiniteFuture();
};

// Runs on each event of a sequence, on the engine's thread, in order; must not block. The last one has ended().
using TokenCallback = std::function<void(const TokenEvent&)>;

// Owns the engine thread, scheduler, KV cache and transformer. Submit, Cancel and stats are thread-safe.
class Engine {
 public:
  // `experts` is used by the engine's thread alone; all references must outlive the engine. INVALID_ARGUMENT: an
  // option is out of range, or kv_bytes do not hold one sequence of context_max tokens. Else as Transformer::Create.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                        ThreadPool& threads, ExpertPool& experts,
                                                        const EngineOptions& options);
  // The same on `target`, with `local` as in ComputeTarget::MakeTransformer.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Checkpoint& checkpoint, ComputeTarget& target,
                                                        ThreadPool& threads, ExpertPool& experts, ExpertPool* local,
                                                        const EngineOptions& options);
  virtual ~Engine() = default;  // ends what still runs with CANCELLED, and joins the thread

  // INVALID_ARGUMENT names the field; RESOURCE_EXHAUSTED: queue full, or the KV cache could never hold the request;
  // UNAVAILABLE: draining; FAILED_PRECONDITION: a grammar, and no vocabulary. Events may come before Submit has
  // returned. An answer ends with kLength where prompt and answer together fill the context.
  virtual absl::StatusOr<SequenceId> Submit(EngineRequest request, TokenCallback on_event) = 0;
  // Ends the sequence with CANCELLED within one step; unknown or ended ids are ignored.
  virtual void Cancel(SequenceId sequence) = 0;
  // Refuses new requests and returns when all running ones have ended, or at the deadline with DEADLINE_EXCEEDED.
  virtual absl::Status Drain(absl::Time deadline) = 0;
  virtual EngineStats stats() const = 0;
  // Rows by [layer][expert] since start, recomputed ones included; dense layers are empty.
  virtual std::vector<std::vector<uint64_t>> ExpertTokens() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_ENGINE_H_
