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
#include "moe/transport/ucx/ucx_link.h"

namespace conclave {

// An answer with its memory, which UCX reads until message.idle().
struct UcxReply {
  explicit UcxReply(const HostMemory& memory) : body(memory) {}
  OutgoingMessage message;
  BodyBuffer body;   // of outputs
  std::string text;  // of errors
};

// Used by the server's thread alone.
class UcxPeer {
 public:
  // `host`: where it connects from. It must be welcomed before `greet_by`. memory: of rows and results; may be null.
  UcxPeer(UcxWorker& worker, std::string host, absl::Time greet_by, const HostMemory& memory)
      : memory_(memory), link_(worker), gather_(memory), peer_{"", std::move(host)}, greet_by_(greet_by) {}

  UcxLink& link() { return link_; }
  MessageGather& gather() { return gather_; }

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

  int calls_queued = 0;
  int64_t bytes_queued = 0;

 private:
  static constexpr size_t kKeptReplies = 4;

  const HostMemory memory_;
  UcxLink link_;
  MessageGather gather_;
  Peer peer_;
  uint64_t connection_ = 0, key_ = 0;
  absl::Time greet_by_;
  bool refused_ = false;
  absl::Status doom_;
  std::vector<std::unique_ptr<UcxReply>> sending_, free_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_PEER_H_
