// Whom a shard refuses: what it refused is counted by kind and logged with the peer's name, and a peer that keeps
// sending what makes no sense is in quarantine for a while, whatever carries its messages.
#ifndef CONCLAVE_MOE_TRANSPORT_PEER_GATE_H_
#define CONCLAVE_MOE_TRANSPORT_PEER_GATE_H_

#include <array>
#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// What carries a peer's messages.
enum class Carrier { kGrpc, kUcx, kNccl };

// Why something was refused.
enum class Refusal {
  kConnection,  // not let in at all
  kMismatch,    // another model, numeric profile, placement epoch or version of the wire format
  kToken,       // a wrong or used token, or a message without the key
  kMessage,     // a message that makes no sense, or out of turn
  kChecksum,    // damaged on the way
  kCall,        // a whole call that asks for what cannot be
  kOverload,    // more than one peer may have
};

// A router as a shard sees it.
struct Peer {
  std::string name;  // as it calls itself; empty: it has not said
  std::string host;  // where it connects from

  // "router-0 at 10.0.0.3", or the host alone; for logs.
  std::string Who() const;
  // Under what name its offences are counted.
  const std::string& Culprit() const { return name.empty() ? host : name; }
};

// Thread-safe: all carriers of one shard share it.
class PeerGate {
 public:
  // A peer with this many offences within the window is in quarantine, each time twice as long up to the maximum.
  static constexpr int kOffencesMax = 3;
  static constexpr absl::Duration kOffenceWindow = absl::Minutes(1);
  static constexpr absl::Duration kQuarantineMin = absl::Seconds(10);
  static constexpr absl::Duration kQuarantineMax = absl::Minutes(10);

  // Both must outlive the gate. `metrics` null: nothing is counted.
  explicit PeerGate(Clock* clock = Clock::Real(), Metrics* metrics = nullptr);

  // PERMISSION_DENIED: the peer of that name is in quarantine, and for how long.
  absl::Status Admit(absl::string_view culprit);
  // Something was refused that can happen to an honest peer.
  void Refuse(Carrier carrier, Refusal kind, const Peer& peer, absl::string_view why);
  // Something was refused that no honest peer sends. True: the peer is in quarantine from now on, and is to be cut off.
  bool Offend(Carrier carrier, Refusal kind, const Peer& peer, absl::string_view why);

 private:
  static constexpr int kCarriers = 3, kKinds = 7;
  static constexpr int kLinesPerSecondMax = 5;
  static constexpr size_t kRecordsMax = 10000;
  struct Record {
    int offences = 0;
    absl::Time window_ends = absl::InfinitePast();
    absl::Time free_at = absl::InfinitePast();
    absl::Duration next_quarantine = kQuarantineMin;
  };
  bool NoteOffence(const std::string& culprit, absl::Time now);  // REQUIRES: mutex_ held
  bool MayLog(absl::Time now);                                   // REQUIRES: mutex_ held

  Clock* const clock_;
  std::array<std::array<Counter*, kKinds>, kCarriers> refused_ = {};
  Counter* quarantines_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, Record, std::less<>> records_;  // guarded by mutex_
  absl::Time next_sweep_ = absl::InfinitePast();        // guarded by mutex_; when full, not before then
  absl::Time second_begins_ = absl::InfinitePast();     // guarded by mutex_
  int lines_ = 0;                                       // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_PEER_GATE_H_
