#include "cli/bench/slo.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"

namespace conclave {

absl::StatusOr<Slo> Slo::Parse(const std::string& text) {
  Slo slo;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    std::optional<double>* bound = pair.first == "ttft"   ? &slo.ttft_ms
                                   : pair.first == "itl"  ? &slo.itl_ms
                                   : pair.first == "tpot" ? &slo.tpot_ms
                                   : pair.first == "e2e"  ? &slo.e2e_ms
                                                          : nullptr;
    absl::Duration duration;
    if (bound == nullptr || !absl::ParseDuration(std::string(pair.second), &duration) ||
        duration <= absl::ZeroDuration() || duration == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat("takes bounds such as ttft=500ms,itl=100ms,tpot=50ms,e2e=10s, not '", part, "'"));
    }
    *bound = absl::ToDoubleMilliseconds(duration);
  }
  return slo;
}

bool Slo::Meets(const RequestRecord& record) const {
  if (record.outcome != Outcome::kAnswered) return false;
  if (ttft_ms && record.ttft_ms() > *ttft_ms) return false;
  if (e2e_ms && record.e2e_ms() > *e2e_ms) return false;
  if (tpot_ms && record.output_tokens > 1 && record.tpot_ms() > *tpot_ms) return false;
  if (!itl_ms || record.gaps_ms.empty()) return true;
  return *std::max_element(record.gaps_ms.begin(), record.gaps_ms.end()) <= *itl_ms;
}

}  // namespace conclave
