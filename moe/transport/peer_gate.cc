#include "moe/transport/peer_gate.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/log.h"

namespace conclave {
namespace {

constexpr const char* kCarrierNames[] = {"grpc", "ucx", "nccl"};
constexpr const char* kKindNames[] = {"connection", "mismatch", "token", "message", "checksum", "call", "overload"};

}  // namespace

std::string Peer::Who() const {
  // Names come from outside and go into logs, where a line break would forge a line.
  return name.empty() ? host : absl::StrCat(absl::CHexEscape(name), host.empty() ? "" : " at ", host);
}

PeerGate::PeerGate(Clock* clock, Metrics* metrics) : clock_(clock) {
  if (metrics == nullptr) return;
  for (int carrier = 0; carrier < kCarriers; ++carrier) {
    for (int kind = 0; kind < kKinds; ++kind) {
      refused_[carrier][kind] =
          metrics->AddCounter("conclave_expert_refused_total", "Connections and messages of routers that were refused.",
                              {{"transport", kCarrierNames[carrier]}, {"reason", kKindNames[kind]}});
    }
  }
  quarantines_ = metrics->AddCounter("conclave_expert_quarantines_total",
                                     "Routers that were cut off for a while after repeated offences.", {});
}

absl::Status PeerGate::Admit(absl::string_view culprit) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto record = records_.find(culprit);
  if (record == records_.end()) return absl::OkStatus();
  const absl::Duration left = record->second.free_at - clock_->Now();
  if (left <= absl::ZeroDuration()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("\"", absl::CHexEscape(culprit), "\" sent messages that make no ",
                                                  "sense and is in quarantine for another ",
                                                  absl::FormatDuration(left)));
}

void PeerGate::Refuse(Carrier carrier, Refusal kind, const Peer& peer, absl::string_view why) {
  Counter* const counter = refused_[static_cast<int>(carrier)][static_cast<int>(kind)];
  if (counter != nullptr) counter->Add(1);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!MayLog(clock_->Now())) return;
  }
  LogWarning(absl::StrCat(kCarrierNames[static_cast<int>(carrier)], ": refused from ", peer.Who(), " (",
                          kKindNames[static_cast<int>(kind)], "): ", why));
}

bool PeerGate::Offend(Carrier carrier, Refusal kind, const Peer& peer, absl::string_view why) {
  Refuse(carrier, kind, peer, why);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!NoteOffence(peer.Culprit(), clock_->Now())) return false;
  }
  if (quarantines_ != nullptr) quarantines_->Add(1);
  LogWarning(absl::StrCat(kCarrierNames[static_cast<int>(carrier)], ": ", peer.Who(),
                          " is in quarantine after repeated offences, the last of them: ", why));
  return true;
}

bool PeerGate::MayLog(absl::Time now) {
  if (now - second_begins_ >= absl::Seconds(1)) {
    second_begins_ = now;
    lines_ = 0;
  }
  return ++lines_ <= kLinesPerSecondMax;
}

bool PeerGate::NoteOffence(const std::string& culprit, absl::Time now) {
  // Names come from outside: their number is bounded, and those that are free again go first.
  if (records_.size() >= kRecordsMax && records_.find(culprit) == records_.end()) {
    if (now < next_sweep_) return false;  // whoever invents names does not make us look through all of them each time
    next_sweep_ = now + absl::Seconds(1);
    for (auto it = records_.begin(); it != records_.end();) {
      it = it->second.free_at <= now && it->second.window_ends <= now ? records_.erase(it) : std::next(it);
    }
    if (records_.size() >= kRecordsMax) return false;
  }
  Record& record = records_[culprit];
  if (now >= record.window_ends) {
    record.offences = 0;
    record.window_ends = now + kOffenceWindow;
  }
  if (++record.offences < kOffencesMax) return false;
  record.offences = 0;
  record.free_at = now + record.next_quarantine;
  record.next_quarantine = std::min(2 * record.next_quarantine, kQuarantineMax);
  return true;
}

}  // namespace conclave
