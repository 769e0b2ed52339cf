// A TCP relay through which everything takes a while, as over a long line: what a network costs can be measured on one
// machine.
#ifndef CONCLAVE_MOE_TRANSPORT_BENCH_DELAY_RELAY_H_
#define CONCLAVE_MOE_TRANSPORT_BENCH_DELAY_RELAY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace conclave {

// Has a thread of its own. Listens on the loopback device; connections end when it is destroyed, or when either end
// closes.
class DelayRelay {
 public:
  // Passes bytes between its own port and `target`, a numeric IPv4 host:port: each way `delay` late, in order, as many
  // at once as come. INVALID_ARGUMENT: a target that is none. UNAVAILABLE: no port, or what the system says.
  static absl::StatusOr<std::unique_ptr<DelayRelay>> Start(const std::string& target, absl::Duration delay);
  virtual ~DelayRelay() = default;
  virtual const std::string& address() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_BENCH_DELAY_RELAY_H_
