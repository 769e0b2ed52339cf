// What a shard refused over UCX: counted by kind, and logged with the peer's name, a few lines a second at most.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_REFUSAL_LOG_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_REFUSAL_LOG_H_

#include <array>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/metrics/metrics.h"

namespace conclave {

enum class Refusal {
  kConnection,  // not let in at all
  kToken,       // a wrong or used token, or a message without the key
  kFragment,    // a message that makes no sense, or out of turn
  kChecksum,    // damaged on the way
  kCall,        // a whole call that asks for what cannot be
  kOverload,    // more than one router may have waiting
};

// Used by one thread.
class RefusalLog {
 public:
  // `metrics` null: nothing is counted.
  explicit RefusalLog(Metrics* metrics);
  void Count(Refusal kind, absl::string_view peer, absl::string_view why);
  void CountQuarantine(absl::string_view peer, absl::string_view why);

 private:
  static constexpr int kKinds = 6;
  static constexpr int kLinesPerSecondMax = 5;

  std::array<Counter*, kKinds> refused_ = {};
  Counter* quarantines_ = nullptr;
  absl::Time second_begins_ = absl::InfinitePast();
  int lines_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_REFUSAL_LOG_H_
