#include "moe/transport/ucx/reply_forecast.h"

namespace conclave {
namespace {

// What was quick counts at once; what was slow must go on being slow.
constexpr int kCallsToLearn = 16;

}  // namespace

void ReplyForecast::Took(int64_t pairs, absl::Duration time) {
  const absl::Duration seen = time / pairs;
  per_pair_ += seen < per_pair_ ? seen - per_pair_ : (seen - per_pair_) / kCallsToLearn;
}

}  // namespace conclave
