#include "gateway/refusal.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace conclave {

absl::Status LimitReached(absl::string_view limit, absl::string_view message, absl::Duration retry_after) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kLimitPayload, absl::Cord(limit));
  return WithRetryAfter(std::move(status), retry_after);
}

absl::Status Unsupported(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUnsupportedPayload, absl::Cord());
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration retry_after) {
  const int64_t milliseconds = absl::ToInt64Milliseconds(absl::Ceil(retry_after, absl::Milliseconds(1)));
  status.SetPayload(kRetryAfterPayload, absl::Cord(absl::StrCat(std::max<int64_t>(1, milliseconds))));
  return status;
}

absl::Duration QueueRetryAfter() {
  thread_local std::minstd_rand random(std::random_device{}());
  return absl::Seconds(1) + absl::Milliseconds(random() % 1000);
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryAfterPayload);
  int64_t milliseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &milliseconds)) return std::nullopt;
  return absl::Milliseconds(milliseconds);
}

std::optional<std::string> LimitOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kLimitPayload);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

bool IsContextLengthExceeded(const absl::Status& status) {
  return status.GetPayload(kContextLengthPayload).has_value();
}

bool IsUnsupported(const absl::Status& status) { return status.GetPayload(kUnsupportedPayload).has_value(); }

std::string FieldOf(const absl::Status& status) {
  const absl::string_view message = status.message();
  const size_t colon = message.find(": ");
  if (colon == 0 || colon == absl::string_view::npos) return "";
  const absl::string_view name = message.substr(0, colon);
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains("_.[]-", c)) return "";
  }
  return std::string(name);
}

}  // namespace conclave
