// Tokens that a shard has handed out to routers, each good for one connection.
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_TOKEN_BOOK_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_TOKEN_BOOK_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"

namespace conclave {

// Thread-safe: tokens are issued by threads of the control channel and redeemed by the data plane's.
class TokenBook {
 public:
  static constexpr absl::Duration kTokenLife = absl::Seconds(10);
  static constexpr int kTokensMax = 4096;  // outstanding

  struct Ticket {
    uint64_t connection = 0;
    std::string token;  // kTokenBytes of the kernel's randomness
  };

  explicit TokenBook(Clock* clock) : clock_(clock) {}

  // RESOURCE_EXHAUSTED: too many tokens are outstanding.
  absl::StatusOr<Ticket> Issue(absl::string_view peer);
  // The peer's name. A token is good once. UNAUTHENTICATED: it is wrong, was used, or is too old.
  absl::StatusOr<std::string> Redeem(uint64_t connection, absl::string_view token);
  // Whether a token is outstanding, so that somebody may be about to connect.
  bool Expecting();

 private:
  struct Outstanding {
    Ticket ticket;
    std::string peer;
    absl::Time expires;
  };
  void DropExpired();  // REQUIRES: mutex_ held

  Clock* const clock_;
  std::mutex mutex_;
  uint64_t last_connection_ = 0;         // guarded by mutex_
  std::deque<Outstanding> outstanding_;  // guarded by mutex_, oldest first
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_TOKEN_BOOK_H_
