// A DeepSeek-family decoder: everything but the routed experts, which it reaches through ExpertPool.
#ifndef CONCLAVE_MOE_MODEL_TRANSFORMER_H_
#define CONCLAVE_MOE_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/kernels/token_draw.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"

namespace conclave {

// Changes to logits that the draws of one step may have, all slices together.
inline constexpr int64_t kDrawChangesMax = int64_t{1} << 16;

// Some rows of one sequence in a step: positions [first_position, first_position + token_ids.size()).
struct SequenceSlice {
  absl::Span<const int32_t> token_ids;  // [n], each in [0, vocab)
  int32_t first_position = 0;           // positions before it are in the cache already
  absl::Span<const int32_t> blocks;     // block ids of the whole sequence so far, these rows included
  int32_t logit_rows = 0;               // logits are wanted for this many of the last rows …
  // … but nobody looks at them where drawn_ids tells of them: what this draw takes of the last row (the change fields
  // are the transformer's), and that the row of each given id has one. Together they are of all rows, or of none.
  std::optional<TokenDraw> draw;
  absl::Span<const LogitChange> changes;  // for the draw; no id twice
  absl::Span<const int32_t> given;        // the ids behind the first of these rows, or all of them
  int32_t given_top_logprobs = -1;        // of their rows, as TokenDraw::top_logprobs

  bool is_told() const { return draw.has_value() || !given.empty(); }
};

// What was told of a row that was drawn from.
struct DrawnLogprobs {
  DrawnLogits logits;
  absl::Span<const LikelyToken> top;  // [min(top_logprobs, vocab)], the likeliest first

  // As a draw left it at its first word, with `top` tokens behind; below 0: nothing was asked for.
  static DrawnLogprobs At(const uint64_t* words, int32_t top) {
    if (top < 0) return {};
    return {*reinterpret_cast<const DrawnLogits*>(words),
            absl::MakeConstSpan(reinterpret_cast<const LikelyToken*>(words + kDrawnLogitsWords), top)};
  }
};

// Sees what passes by. Called on the engine's thread.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  // The gate's choice for the rows of the step, in the order of the slices.
  virtual void OnRouting(LayerId layer, const Routing& routing) = 0;
  // The step goes through the layers in two parts.
  virtual void OnTwoParts() {}
};

// What one Forward may hold; sizes all scratch.
struct TransformerOptions {
  int rows_max = 512;        // rows of one Forward, over all slices
  int logit_rows_max = 512;  // of them, rows whose logits are wanted
  int context_max = 0;       // positions of one sequence; 0: the model's own limit
  Device rows_elsewhere = Device::kCpu;  // ExpertPool::row_device of pools that are not on the model's own device
};

// `options` with context_max filled in, as every transformer takes them. INVALID_ARGUMENT names the limit.
absl::StatusOr<TransformerOptions> ResolveLimits(const ModelSpec& spec, const TransformerOptions& options);
// A slice whose numbers fit neither each other nor `context_max` nor blocks of that size is our own mistake (CHECK).
void CheckSlice(const SequenceSlice& slice, int context_max, int block_tokens);

// Used by one thread. Sized at creation; Forward allocates nothing per row.
class Transformer {
 public:
  // Resolves and checks every tensor but the routed experts'. All arguments must outlive the transformer.
  // NOT_FOUND / DATA_LOSS as Checkpoint::Weight.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                             ThreadPool& threads, const TransformerOptions& options);
  virtual ~Transformer() = default;

  // Runs all slices' rows through the model, writes their latents into `kv`, and fills `logits`
  // [sum of logit_rows, vocab] F32 in the order of the slices. A row's logits depend on its own sequence alone.
  // REQUIRES: the sum of rows is in [1, rows_max]. Errors are the expert pool's; the cache rows of the step's
  // positions are then unspecified, and the step may be run again.
  virtual absl::Status Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts,
                               MatView logits, ForwardObserver* observer) = 0;

  // A cache of `blocks` blocks of `block_tokens` tokens (IsKvBlockSize) in the memory that Forward works in; the
  // transformer must outlive it.
  // RESOURCE_EXHAUSTED: there is too little of that memory.
  virtual absl::StatusOr<std::unique_ptr<KvStorage>> NewCache(const ModelSpec& spec, DType dtype, int32_t blocks,
                                                              int block_tokens);
  // Memory of the transformer to which Forward brings logits fastest, [logit_rows_max, vocab] F32; one without rows:
  // any is as good.
  virtual MatView host_logits() { return MatView{}; }
  // Of the last Forward, for every row of `logits`: the id that its slice's draw takes, as Sampler would, or the given
  // one, or -1 where a logit is not a finite number. Rows of slices that are told of were then not written; those of
  // others have no id. Empty: it is not told, and all rows were written.
  virtual absl::Span<const int32_t> drawn_ids() const { return {}; }
  // Of the last Forward, for a row that has an id and where it was asked for (TokenDraw::top_logprobs): what log
  // probabilities take of its logits as they were before changes. Views are good until the next Forward.
  virtual DrawnLogprobs drawn_logprobs(int64_t row) const { return {}; }
  // Of the last Forward, whose other slices are not affected: INTERNAL names the layer at which a hidden state of the
  // slice stopped being a finite number.
  virtual absl::Status SliceStatus(size_t slice) const { return absl::OkStatus(); }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_TRANSFORMER_H_
