// Whom a shard lets in: tokens that it has handed out, and peers that have misbehaved.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_PEER_BOOK_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_PEER_BOOK_H_

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"

namespace conclave {

// Thread-safe: tokens are issued by threads of the control channel and redeemed by the data plane's.
class PeerBook {
 public:
  static constexpr absl::Duration kTokenLife = absl::Seconds(10);
  static constexpr int kTokensMax = 4096;  // outstanding
  // A peer with this many offences within the window is in quarantine, each time twice as long up to the maximum.
  static constexpr int kOffencesMax = 3;
  static constexpr absl::Duration kOffenceWindow = absl::Minutes(1);
  static constexpr absl::Duration kQuarantineMin = absl::Seconds(10);
  static constexpr absl::Duration kQuarantineMax = absl::Minutes(10);

  struct Ticket {
    uint64_t connection = 0;
    std::string token;  // kTokenBytes of the kernel's randomness
  };

  explicit PeerBook(Clock* clock) : clock_(clock) {}

  // PERMISSION_DENIED: the peer is in quarantine, and until when. RESOURCE_EXHAUSTED: too many tokens are outstanding.
  absl::StatusOr<Ticket> Issue(absl::string_view peer);
  // The peer's name. A token is good once. UNAUTHENTICATED: it is wrong, was used, or is too old.
  absl::StatusOr<std::string> Redeem(uint64_t connection, absl::string_view token);
  // Whether a token is outstanding, so that somebody may be about to connect.
  bool Expecting();
  // Counts an offence. True: the peer is in quarantine from now on.
  bool Offend(absl::string_view peer);
  bool Quarantined(absl::string_view peer);

 private:
  static constexpr size_t kRecordsMax = 10000;
  struct Outstanding {
    Ticket ticket;
    std::string peer;
    absl::Time expires;
  };
  struct Record {
    int offences = 0;
    absl::Time window_ends = absl::InfinitePast();
    absl::Time free_at = absl::InfinitePast();
    absl::Duration next_quarantine = kQuarantineMin;
  };
  void DropExpired();  // REQUIRES: mutex_ held

  Clock* const clock_;
  std::mutex mutex_;
  uint64_t last_connection_ = 0;           // guarded by mutex_
  std::deque<Outstanding> outstanding_;    // guarded by mutex_, oldest first
  std::map<std::string, Record> records_;  // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_PEER_BOOK_H_
