// What experts and shards had to do lately, from counters that shards keep since their start.
#ifndef CONCLAVE_PLACEMENT_SERVICE_LOAD_METER_H_
#define CONCLAVE_PLACEMENT_SERVICE_LOAD_METER_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// Tokens count for half as much after `half_life`. Nothing here must outlive the process: after a restart the first
// reading is where counting begins. Used by one thread.
class LoadMeter {
 public:
  // since_start: what a shard had counted when it was read for the first time counts too.
  explicit LoadMeter(absl::Duration half_life, bool since_start = false)
      : half_life_(half_life), since_start_(since_start) {}

  // A reading of the shard at `address`. Counters that are lower than last time are those of a new process.
  void Read(const std::string& address, absl::Span<const LayerTokens> tokens, absl::Time now);
  // Forgets all that were read but those at `addresses`.
  void Keep(absl::Span<const std::string> addresses);
  // Tokens of each expert of the layer that the shard ran, [experts] or empty: none that we know of.
  std::vector<double> Tokens(const std::string& address, LayerId layer, absl::Time now) const;

 private:
  struct Series {
    std::vector<uint64_t> counters;  // at the last reading
    std::vector<double> tokens;      // decayed to then
    absl::Time read_at;
  };
  double Decay(absl::Duration age) const;

  const absl::Duration half_life_;
  const bool since_start_;
  std::map<std::pair<std::string, LayerId>, Series> series_;
};

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_LOAD_METER_H_
