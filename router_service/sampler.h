// Chooses the next token. Random numbers are a pure function of (seed, position, choice), so that batch mates,
// restarts and resumed streams cannot matter.
#ifndef CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
#define CONCLAVE_ROUTER_SERVICE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace conclave {

struct SamplingParams {
  float temperature = 0.0f;  // 0: the most likely token (the lowest id among equals)
  float top_p = 1.0f;        // (0, 1]
  int top_k = 0;             // 0: all
  uint64_t seed = 0;
  int choice = 0;            // index among the n answers to one request
  absl::Status Validate() const;  // INVALID_ARGUMENT names the field
};

// Uniform in [0, 1), 24 bits, from Philox4x32-10 (Salmon et al. 2011) with key = seed, counter = (position, choice).
float UniformAt(uint64_t seed, int64_t position, int choice);

// Owns scratch for one engine; used by one thread.
class Sampler {
 public:
  explicit Sampler(int vocab);
  // The token that follows `position` tokens. logits: [vocab], every value finite, else INTERNAL.
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits, const SamplingParams& params, int64_t position);

 private:
  std::vector<int32_t> order_;
  std::vector<float> probability_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SAMPLER_H_
