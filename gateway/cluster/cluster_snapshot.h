// What the attention services of a cluster say of it at one moment.
#ifndef CONCLAVE_GATEWAY_CLUSTER_CLUSTER_SNAPSHOT_H_
#define CONCLAVE_GATEWAY_CLUSTER_CLUSTER_SNAPSHOT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

// One attention service; `status` and `experts` hold nothing where `error` is not OK.
struct RouterSnapshot {
  std::string address;  // host:port
  absl::Status error;   // why it did not answer
  v1::GetStatusResponse status;
  v1::GetExpertMapResponse experts;
};

// All of them at one moment.
struct ClusterSnapshot {
  absl::Time time;
  std::vector<RouterSnapshot> routers;
};

// Asks services again and again over connections that stay open. Used by one thread.
class ClusterProbe {
 public:
  // `addresses` tells host:port of every attention service, whenever they are asked. `credentials`: null for plaintext.
  // Nothing is sent yet.
  static std::unique_ptr<ClusterProbe> Create(std::function<std::vector<std::string>()> addresses,
                                              std::shared_ptr<grpc::ChannelCredentials> credentials);
  virtual ~ClusterProbe() = default;
  // Blocks for at most `timeout` a service. A service that does not answer is a snapshot with its error.
  virtual ClusterSnapshot Take(absl::Duration timeout) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_CLUSTER_CLUSTER_SNAPSHOT_H_
