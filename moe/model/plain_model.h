// For tests: the decoder written down as its papers do, in double, one row after the other, with keys and values
// expanded for every head. It shares nothing with the model under test but the reading of tensors and SelectExperts.
#ifndef CONCLAVE_MOE_MODEL_PLAIN_MODEL_H_
#define CONCLAVE_MOE_MODEL_PLAIN_MODEL_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "moe/checkpoint/checkpoint.h"

namespace conclave {

// The logits of every row of one sequence: [ids, vocab]. The checkpoint must be whole.
std::vector<std::vector<double>> PlainLogits(const Checkpoint& checkpoint, absl::Span<const int32_t> ids);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_PLAIN_MODEL_H_
