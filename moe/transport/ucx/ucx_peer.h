// A router as a shard sees it: its connection, what has come of its next message, and the replies on their way to it.
// Internal to the UCX server.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_PEER_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_PEER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/message_gather.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/ucx/ucx_fetch.h"
#include "moe/transport/ucx/ucx_link.h"

namespace conclave {

// Where rows and results lie; null: host memory of the allocator, no device memory.
struct UcxMemory {
  HostMemory host;
  HostMemory device;  // memory of the device, in spite of its type's name
};

// An answer with its memory, which UCX reads until message.idle().
struct UcxReply {
  explicit UcxReply(const UcxMemory& memory) : body(memory.host), device_body(memory.device) {}
  OutgoingMessage message;
  BodyBuffer body;         // of outputs, or …
  BodyBuffer device_body;  // … where they lie on the device
  std::string text;        // of errors
};

// Used by the server's thread alone.
class UcxPeer {
 public:
  // `host`: where it connects from. It must be welcomed before `greet_by`.
  UcxPeer(UcxWorker& worker, std::string host, absl::Time greet_by, const UcxMemory& memory)
      : memory_(memory),
        link_(worker),
        gather_(memory.host),
        peer_{"", std::move(host)},
        greet_by_(greet_by),
        device_rows_(memory.device) {}

  UcxLink& link() { return link_; }
  MessageGather& gather() { return gather_; }
  // The rows of the call whose turn it is next of those that lie on devices: their memory and how they come there.
  BodyBuffer& device_rows() { return device_rows_; }
  UcxFetch& fetch() { return fetch_; }
  // UCX has let go of all its memory.
  bool idle() const { return link_.idle() && !fetch_.moving(); }

  // Its name is empty as long as it has not said who it is.
  const Peer& peer() const { return peer_; }

  // It showed a good token with `hello`.
  void Welcome(std::string name, const WireHeader& hello, uint64_t key);
  // It showed `token`, which is not good: it is told why not, and then cut off.
  void Refuse(const WireHeader& hello, absl::string_view token, const absl::Status& why);
  bool greeted() const { return !peer_.name.empty(); }
  bool Owns(const WireHeader& header) const {
    return greeted() && header.connection == connection_ && header.key == key_;
  }

  // A reply to fill in and Send; its memory comes from earlier ones.
  std::unique_ptr<UcxReply> NewReply();
  void Send(std::unique_ptr<UcxReply> reply);

  // It is to be cut off, for the first reason given.
  void Doom(absl::Status why);
  // Whether it is to be cut off by now.
  bool Doomed(absl::Time now);
  const absl::Status& doom() const { return doom_; }
  // Hands over what can be, and takes back replies that are sent.
  void Pump();
  // Whether all replies have been handed to the network.
  bool Quiet() const { return sending_.empty(); }
  // Of the replies that have not.
  int64_t bytes_unsent() const;
  absl::Time greet_by() const { return greeted() ? absl::InfiniteFuture() : greet_by_; }

  // Replies whose results on the device it has not fetched.
  int results_offered() const;

  int calls_queued = 0;
  bool device_rows_used = false;  // by a call that is fetched or runs
  int64_t bytes_queued = 0;

 private:
  static constexpr size_t kKeptReplies = 4;

  const UcxMemory memory_;
  UcxLink link_;
  MessageGather gather_;
  Peer peer_;
  uint64_t connection_ = 0, key_ = 0;
  absl::Time greet_by_;
  bool refused_ = false;
  absl::Status doom_;
  std::vector<std::unique_ptr<UcxReply>> sending_, free_;
  BodyBuffer device_rows_;
  UcxFetch fetch_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_PEER_H_
