// A TCP connection that carries the headers of calls and replies, and what belongs to them but the rows: a WireHeader
// and its payload, message after message (moe/transport/data_plane/wire.h). Never blocks.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_LANE_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_LANE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {

// How many bytes follow `header` on the lane: a call's offsets and ids, the text of a refusal, a token. Rows do not.
int64_t LanePayloadBytes(const WireHeader& header);

// Used by one thread.
class Lane {
 public:
  struct Message {
    WireHeader header;
    std::vector<std::byte> payload;  // LanePayloadBytes
    absl::string_view text() const {
      return absl::string_view(reinterpret_cast<const char*>(payload.data()), payload.size());
    }
  };

  // Begins to connect. UNAVAILABLE: it fails at once.
  static absl::StatusOr<std::unique_ptr<Lane>> Connect(const SocketAddress& address);
  // Takes a connected socket over.
  explicit Lane(int socket);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Queues a message and sends what the socket takes. REQUIRES: payload has LanePayloadBytes(header)
  void Push(const WireHeader& header, const void* payload);
  // Sends what is left. UNAVAILABLE: the other end is gone.
  absl::Status Pump();
  // Takes in what has come. True: `message` is the next one. INVALID_ARGUMENT: bytes that are no message;
  // RESOURCE_EXHAUSTED: a payload above `payload_bytes_max`; UNAVAILABLE: the other end is gone.
  absl::StatusOr<bool> Next(int64_t payload_bytes_max, Message* message);

  // To wait for, with poll(2).
  int socket() const { return socket_; }
  bool sending() const { return sent_ < outgoing_.size(); }

 private:
  absl::Status Receive(std::byte* to, size_t wanted, size_t* have);

  int socket_;
  std::vector<std::byte> outgoing_;
  size_t sent_ = 0;
  std::byte header_[sizeof(WireHeader)];
  size_t header_have_ = 0, payload_have_ = 0;
  Message incoming_;  // its header is valid where header_have_ is whole
};

// A socket that listens. UNAVAILABLE: it cannot.
absl::StatusOr<int> ListenOn(const SocketAddress& address);
// The next connection that has come; -1: none. `host` is where it comes from.
int AcceptFrom(int listener, std::string* host);
// host:port as bound.
std::string BoundAddress(int listener);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_LANE_H_
