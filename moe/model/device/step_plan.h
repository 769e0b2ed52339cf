// Where the rows of one step stand, in the form that kernels read: one packed array of integers, copied at once.
#ifndef CONCLAVE_MOE_MODEL_DEVICE_STEP_PLAN_H_
#define CONCLAVE_MOE_MODEL_DEVICE_STEP_PLAN_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/token_draw.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/transformer.h"

namespace conclave {

// Owned by a transformer; its arrays lie one after the other for the step's own number of rows, so that steps of equal
// size find them at equal places.
class StepPlan {
 public:
  // Sized for options; room for blocks grows to what the largest step needed.
  static absl::StatusOr<StepPlan> Create(const TransformerOptions& options, DeviceMemory& memory);

  // Lists every row and queues the copy to the device. Blocks hold block_tokens tokens. REQUIRES: slices keep
  // Transformer::Forward's contract.
  // Errors are those of growing.
  absl::Status Set(absl::Span<const SequenceSlice> slices, const ModelSpec& spec, int block_tokens);

  int64_t rows() const { return rows_; }
  int64_t logit_count() const { return logit_count_; }
  // Another whenever the arrays moved, or the cache that the steps use, which makes what was recorded with them
  // worthless; no two plans of a process ever have the same, for several models may use one accelerator.
  uint64_t generation() const { return generation_; }
  void SetCache(const void* cache);
  const int32_t* tokens() const { return device(0); }
  const int32_t* positions() const { return device(rows_); }
  const int32_t* cache_rows() const { return device(2 * rows_); }   // block * block_tokens + its row
  const int32_t* first_block() const { return device(3 * rows_); }  // into blocks()
  const int32_t* lengths() const { return device(4 * rows_); }      // positions() + 1
  const int32_t* logit_rows() const { return device(5 * rows_); }   // [logit_count()] rows whose logits are wanted
  // [logit_count()] how each of their tokens is drawn, or given; the largest logit where the slice does not say
  const TokenDraw* draws() const { return reinterpret_cast<const TokenDraw*>(device(5 * rows_ + logit_count_)); }
  const int32_t* blocks() const { return device(5 * rows_ + (1 + kDrawIntegers) * logit_count_); }
  int32_t* tables() const { return device_.as<int32_t>(); }  // where draws' changes are counted from
  // The draw of a row of the logits; of all of them, words of DrawnLogits and LikelyTokens.
  const TokenDraw& draw(int64_t row) const { return host_draws()[row]; }
  int64_t logprob_words() const { return logprob_words_; }
  // The largest of lengths().
  int32_t tokens_max() const { return tokens_max_; }

 private:
  static constexpr int64_t kDrawIntegers = sizeof(TokenDraw) / sizeof(int32_t);
  static constexpr int64_t kChangeIntegers = sizeof(LogitChange) / sizeof(int32_t);

  StepPlan(const TransformerOptions& options, DeviceMemory& memory) : options_(options), memory_(&memory) {}
  absl::Status Grow(int64_t integers);
  void ListDraws(absl::Span<const SequenceSlice> slices, int64_t first_change, int32_t vocab);
  TokenDraw* host_draws() const {
    return reinterpret_cast<TokenDraw*>(host_.as<int32_t>() + 5 * rows_ + logit_count_);
  }
  const int32_t* device(int64_t offset) const { return device_.as<int32_t>() + offset; }

  TransformerOptions options_;
  DeviceMemory* memory_;
  int64_t capacity_ = 0;
  uint64_t generation_ = 0;
  const void* cache_ = nullptr;
  DeviceBuffer host_, device_;
  int64_t rows_ = 0;
  int64_t logit_count_ = 0;
  int64_t logprob_words_ = 0;
  int32_t tokens_max_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DEVICE_STEP_PLAN_H_
