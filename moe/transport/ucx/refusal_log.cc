#include "moe/transport/ucx/refusal_log.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr const char* kNames[] = {"connection", "token", "fragment", "checksum", "call", "overload"};

}  // namespace

RefusalLog::RefusalLog(Metrics* metrics) {
  if (metrics == nullptr) return;
  for (int kind = 0; kind < kKinds; ++kind) {
    refused_[kind] =
        metrics->AddCounter("conclave_expert_ucx_refused_total", "Connections and messages over UCX that were refused.",
                            {{"reason", kNames[kind]}});
  }
  quarantines_ = metrics->AddCounter("conclave_expert_ucx_quarantines_total",
                                     "Routers that were cut off for a while after repeated offences.", {});
}

void RefusalLog::Count(Refusal kind, absl::string_view peer, absl::string_view why) {
  if (Counter* const counter = refused_[static_cast<int>(kind)]; counter != nullptr) counter->Add(1);
  const absl::Time now = absl::Now();
  if (now - second_begins_ >= absl::Seconds(1)) {
    second_begins_ = now;
    lines_ = 0;
  }
  if (++lines_ > kLinesPerSecondMax) return;
  LogWarning(absl::StrCat("ucx: refused from ", peer, " (", kNames[static_cast<int>(kind)], "): ", why));
}

void RefusalLog::CountQuarantine(absl::string_view peer, absl::string_view why) {
  if (quarantines_ != nullptr) quarantines_->Add(1);
  LogWarning(absl::StrCat("ucx: ", peer, " is in quarantine after repeated offences, the last of them: ", why));
}

}  // namespace conclave
