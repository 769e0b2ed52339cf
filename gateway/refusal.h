// What a refusal tells a client besides its message: when to try again, which limit it met, which field is wrong. The
// dispatcher puts it into a status; each front says it in its protocol's own words (google.rpc details, HTTP headers).
#ifndef CONCLAVE_GATEWAY_REFUSAL_H_
#define CONCLAVE_GATEWAY_REFUSAL_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// Payloads of a status, as text: whole milliseconds, at least 1; and the limit's name.
inline constexpr char kRetryAfterPayload[] = "conclave/retry-after-ms";
inline constexpr char kLimitPayload[] = "conclave/limit";
// Present, though empty, where a prompt is longer than the context.
inline constexpr char kContextLengthPayload[] = "conclave/context-length-exceeded";
// Present, though empty, where a request asks for what this server or its model does not do.
inline constexpr char kUnsupportedPayload[] = "conclave/unsupported";

// Names of limits, which clients may look for.
inline constexpr char kLimitRequestsPerMinute[] = "requests_per_minute";
inline constexpr char kLimitTokensPerMinute[] = "tokens_per_minute";
inline constexpr char kLimitRequestsRunning[] = "requests_running";
inline constexpr char kLimitQueue[] = "queue";  // of the attention services: everyone's

// RESOURCE_EXHAUSTED with both payloads; `retry_after` is rounded up.
absl::Status LimitReached(absl::string_view limit, absl::string_view message, absl::Duration retry_after);
// INVALID_ARGUMENT with the payload.
absl::Status Unsupported(absl::string_view message);
// When to try again where the queue is full, or no attention service can be used: from one to two seconds, drawn, so
// that those who are refused together do not come back together.
absl::Duration QueueRetryAfter();
// The same status with a time after which trying again makes sense; replaces one that it has.
absl::Status WithRetryAfter(absl::Status status, absl::Duration retry_after);

// What a status says. Empty where it does not.
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);
std::optional<std::string> LimitOf(const absl::Status& status);
bool IsContextLengthExceeded(const absl::Status& status);
bool IsUnsupported(const absl::Status& status);
// "sampling.top_p" of INVALID_ARGUMENT "sampling.top_p: is 2; …", and "model" of NOT_FOUND "model: …"; empty where the
// message does not begin with a field's name.
std::string FieldOf(const absl::Status& status);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_REFUSAL_H_
