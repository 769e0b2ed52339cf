// One step as the scheduler hands it to the engine, and what comes of it.
#ifndef CONCLAVE_ROUTER_SERVICE_BATCH_H_
#define CONCLAVE_ROUTER_SERVICE_BATCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "router_service/finish_reason.h"

namespace conclave {

// Rows of one sequence in a step: positions [first_position, first_position + token_ids.size()).
// The spans are valid until Commit, or until the sequence is cancelled.
struct BatchSlice {
  SequenceId sequence{0};
  absl::Span<const int32_t> tokens;     // of the whole sequence, those that are not computed yet included
  absl::Span<const int32_t> token_ids;  // [n]: a part of `tokens`
  int32_t first_position = 0;
  absl::Span<const int32_t> blocks;  // of the whole sequence so far, these rows included
  int32_t logit_rows = 0;            // the last so many rows give their logits
  bool samples = false;              // the last row's logits choose the sequence's next token
  int32_t prompt_rows = 0;           // the first so many rows are prompt, not answer

  int32_t end() const { return first_position + static_cast<int32_t>(token_ids.size()); }
};

// A sequence that has left the queue for the first time.
struct Admission {
  SequenceId sequence{0};
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // of them: those that were found in the prefix cache
};

// One step.
struct Batch {
  std::vector<BatchSlice> slices;  // at most one of each sequence; decodes first
  std::vector<Admission> admissions;
  int rows = 0;
  int decode_rows = 0;  // of them: of sequences that decode
  int logit_rows = 0;
};

// A token that a sequence got, or the end of one that was to get none.
struct ScheduledToken {
  SequenceId sequence{0};
  int32_t token = 0;  // -1: none, and the end
  FinishReason finish = FinishReason::kNone;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_BATCH_H_
