// Opens the transport to shards in other processes: gRPC, UCX, or the better of the two that works.
#ifndef CONCLAVE_MOE_TRANSPORT_DIAL_DIAL_SHARDS_H_
#define CONCLAVE_MOE_TRANSPORT_DIAL_DIAL_SHARDS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/transport/transport.h"

namespace grpc {
class ChannelCredentials;
}

namespace conclave {

class Accelerator;

enum class TransportKind {
  kAuto,  // UCX to the shards that offer it and can be reached so, gRPC to the others
  kGrpc,
  kUcx,
  kNccl,
};

// "auto", "grpc", "ucx" or "nccl". INVALID_ARGUMENT quotes anything else.
absl::StatusOr<TransportKind> ParseTransportKind(absl::string_view text);

// What is dialled, and what is expected to answer.
struct DialOptions {
  TransportKind kind = TransportKind::kAuto;
  std::string name = "router";  // stands in the shards' logs
  // What shards must serve; empty or 0: not checked.
  std::string model_fingerprint;
  std::string numeric_profile;
  bool checksum = false;  // not over NCCL, where rows stay on the devices
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // of gRPC; null: plaintext
  absl::Duration ucx_wait = absl::Seconds(5);             // for UCX connections, once, before the choice is logged
  Accelerator* accelerator = nullptr;                     // whose memory NCCL and UCX move; outlives the transport
  absl::Duration nccl_wait = absl::Seconds(30);           // for NCCL connections, once
};

// addresses[i]: host:port of the gRPC server of ShardId{i}. Logs which way activations take, shard by shard, and why
// where it is not UCX. UCX and NCCL do not encrypt: with credentials kAuto means gRPC. With kUcx and kNccl alone it can
// fail: UNAVAILABLE or INTERNAL says which shard is not reached, and why; FAILED_PRECONDITION what of NCCL is missing.
absl::StatusOr<std::unique_ptr<Transport>> DialShards(const std::vector<std::string>& addresses,
                                                      const DialOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DIAL_DIAL_SHARDS_H_
