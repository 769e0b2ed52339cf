// Checks requests before any work is done for them. Pure functions; INVALID_ARGUMENT starts with the field's name.
#ifndef CONCLAVE_GATEWAY_VALIDATION_H_
#define CONCLAVE_GATEWAY_VALIDATION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

inline constexpr int kRequestIdBytesMax = 128;
inline constexpr int kChatMessagesMax = 10'000;
inline constexpr int kAnswersMax = 128;  // n
inline constexpr int kStopsMax = 16, kStopBytesMax = 256;
inline constexpr int kStopIdsMax = 128;
inline constexpr int kLogitBiasesMax = 1024;
inline constexpr int kTopLogprobsMax = 20;
inline constexpr int kPriorityMax = 1'000'000;
inline constexpr int kDetokenizeIdsMax = 1 << 20;

// Every field of the request but the length of the prompt in tokens, which only the tokenizer knows.
// NOT_FOUND: another model than `served_model`. `vocab` is the model's: token prompts must stay below it.
absl::Status ValidateGenerate(const v1::GenerateRequest& request, absl::string_view served_model, int vocab);
// At most kRequestIdBytesMax visible ASCII characters: it stands in log lines. Empty is fine.
absl::Status ValidateRequestId(absl::string_view id);
absl::Status ValidateTokenize(const v1::TokenizeRequest& request, absl::string_view served_model);
absl::Status ValidateDetokenize(const v1::DetokenizeRequest& request, absl::string_view served_model, int vocab);

// A prompt of `tokens` leaves room for at least one token of an answer. `field` is where the prompt stood.
absl::Status ValidatePromptLength(absl::string_view field, int64_t tokens, int context_max);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_VALIDATION_H_
