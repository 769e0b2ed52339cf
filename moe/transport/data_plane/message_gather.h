// Puts the fragments of messages together, one message after the other, as a shard receives them from one router.
// It survives any fragments in any order (wire_fuzz.cc).
#ifndef CONCLAVE_MOE_TRANSPORT_DATA_PLANE_MESSAGE_GATHER_H_
#define CONCLAVE_MOE_TRANSPORT_DATA_PLANE_MESSAGE_GATHER_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {

// Used by one thread.
class MessageGather {
 public:
  MessageGather() = default;
  // Bodies lie in `memory`, where that is not null.
  explicit MessageGather(const HostMemory& memory) : body_(memory) {}
  // Takes a fragment that passed ReadFragment. True: its message is whole, and header() and Take() are good until the
  // next Accept. INVALID_ARGUMENT names what is wrong: a fragment that is not the next of its message, a message that
  // came before (its sequence is not greater than the last one's). DATA_LOSS: the checksum does not fit. Whatever had
  // come of the message is then dropped.
  absl::StatusOr<bool> Accept(const WireHeader& fragment, const void* payload, int64_t payload_bytes);
  // The last fragment of a message with kWireDeviceRows, of which `bytes` can be fetched: the message is whole, and its
  // body is the rest. Errors as Accept.
  absl::Status AcceptOffer(const WireHeader& fragment, int64_t bytes);
  // Whether a fragment that passed ReadFragment is a message by itself that need not be copied to be whole; its
  // checksum, where it has one, wants Accept.
  bool IsWhole(const WireHeader& fragment, int64_t payload_bytes) const {
    return !open_ && fragment.offset == 0 && payload_bytes == static_cast<int64_t>(fragment.body_bytes) &&
           (fragment.flags & (kWireChecksummed | kWireDeviceRows)) == 0;
  }
  // Takes such a fragment without its body, which stays where it is: header() is good, Take() is not.
  // INVALID_ARGUMENT: it came before. REQUIRES: IsWhole
  absl::Status AcceptInPlace(const WireHeader& fragment) { return Begin(fragment); }
  // Of the message that has begun.
  int64_t bytes_missing() const { return open_ ? static_cast<int64_t>(header_.body_bytes - received_) : 0; }
  const WireHeader& header() const { return header_; }
  // The body of the whole message; `spare` is used for the next one.
  BodyBuffer Take(BodyBuffer spare) { return std::exchange(body_, std::move(spare)); }
  int64_t bytes_held() const { return body_.capacity(); }

 private:
  absl::Status Begin(const WireHeader& fragment);
  absl::Status OutOfOrder(const WireHeader& fragment);
  absl::Status CheckSum(const WireHeader& last) const;

  WireHeader header_;
  BodyBuffer body_;
  uint64_t received_ = 0;
  bool open_ = false;  // a message has begun and is not whole
  uint64_t last_sequence_ = 0;
  WireChecksum checksum_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_DATA_PLANE_MESSAGE_GATHER_H_
