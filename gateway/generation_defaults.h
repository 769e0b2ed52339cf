// What a model's authors recommend for sampling: the part of generation_config.json that requests take as defaults.
#ifndef CONCLAVE_GATEWAY_GENERATION_DEFAULTS_H_
#define CONCLAVE_GATEWAY_GENERATION_DEFAULTS_H_

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

// Defaults for what a request leaves out; what is absent here too has the proto's own default.
struct GenerationDefaults {
  v1::SamplingOptions sampling;   // temperature, top_p, top_k, min_p, repetition_penalty
  std::optional<int> max_tokens;  // max_new_tokens
};

// Reads the text of generation_config.json as Hugging Face transformers means it: with "do_sample": false the model is
// to be greedy, whatever stands beside it. A request that names its temperature gets that one, so that 0 is greedy
// with every model. Fields of other uses are ignored. INVALID_ARGUMENT names the field that is out of range.
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view json);

// Sets in `sampling` whatever it leaves out and `defaults` has.
void ApplyDefaults(const v1::SamplingOptions& defaults, v1::SamplingOptions& sampling);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_GENERATION_DEFAULTS_H_
