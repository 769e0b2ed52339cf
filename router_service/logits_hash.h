// A running XXH64 over the logits of a sequence, for comparing answers bit for bit.
#ifndef CONCLAVE_ROUTER_SERVICE_LOGITS_HASH_H_
#define CONCLAVE_ROUTER_SERVICE_LOGITS_HASH_H_

#include <xxhash.h>

#include <cstdint>
#include <memory>

#include "absl/types/span.h"

namespace conclave {

// XXH64 with seed 0 over the little-endian bytes of all rows in the order in which they came. Used by one thread.
class LogitsHash {
 public:
  LogitsHash() : state_(XXH64_createState()) { XXH64_reset(state_.get(), 0); }

  // logits: [vocab]
  void Update(absl::Span<const float> logits) {
    XXH64_update(state_.get(), logits.data(), logits.size() * sizeof(float));
  }
  // The hash of what came so far; more may come.
  uint64_t Digest() const { return XXH64_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH64_state_t* state) const { XXH64_freeState(state); }
  };
  std::unique_ptr<XXH64_state_t, Free> state_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_LOGITS_HASH_H_
