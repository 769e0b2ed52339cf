// A router's connection to one shard as a state machine that never blocks: ask for a token, connect, greet, be open,
// break, wait, ask again. Internal to the UCX transport.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_CONNECTION_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_CONNECTION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/ucx/ucx_link.h"
#include "moe/transport/ucx/ucx_transport.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// Used by the transport's thread alone.
class UcxConnection {
 public:
  // All must outlive the connection.
  UcxConnection(ShardId shard, const UcxTransportOptions& options, DataPlaneClient& control, UcxWorker& worker)
      : shard_(shard), options_(options), control_(control), worker_(worker), backoff_(options.backoff_min) {}

  // Goes on with whatever is to be done. True: it broke, and why() says what happened; calls that were on it are lost.
  bool Step(absl::Time now);
  // When Step has something to do though no message came.
  absl::Time due(absl::Time now) const;
  // Waits for its next attempt: calls are not taken.
  bool down() const { return state_ == State::kDown; }
  bool open() const { return state_ == State::kOpen; }
  const absl::Status& why() const { return why_; }
  // The same as it was said, with its own code.
  const absl::Status& last_refusal() const { return last_refusal_; }
  // REQUIRES: open()
  UcxLink& link() { return *link_; }
  // What every message of this connection carries.
  void Stamp(WireHeader* header) const;
  bool Owns(const WireHeader& header) const;
  // Whether rows and results travel from device to device, as the shard said at the handshake; and where it would not,
  // why.
  bool device_rows() const { return device_rows_; }
  const std::string& why_no_device_rows() const { return why_no_device_rows_; }
  // The link has been inspected: device rows need a wire for them, or none where devices are pretended.
  void OnInspected(bool pretended);
  // The shard's answer to the greeting.
  void OnWelcome(const WireHeader& header, absl::string_view text);
  // Gives the connection up; Step then tells of it.
  void Break(absl::Status why);
  // For good. Links are gone when idle() is true.
  void Shutdown();
  bool idle();
  // Links that nobody can wait for any longer are left to themselves.
  void Abandon();

 private:
  enum class State { kDown, kAsking, kGreeting, kOpen };
  void Ask(absl::Time now);
  void Greet(const DataPlaneOffer& offer);
  void Fail(const absl::Status& why, absl::Time now);
  absl::Status Progressed(absl::Time now);

  const ShardId shard_;
  const UcxTransportOptions& options_;
  DataPlaneClient& control_;
  UcxWorker& worker_;

  State state_ = State::kDown;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Time give_up_at_ = absl::InfiniteFuture();  // of the attempt under way
  absl::Duration backoff_;
  absl::Status why_, last_refusal_, break_why_;
  bool welcome_ = false;  // the shard said so
  uint64_t connection_ = 0, key_ = 0;
  uint8_t version_ = kWireVersion;
  bool device_rows_ = false;
  std::string why_no_device_rows_;
  std::string token_;
  OutgoingMessage hello_;
  std::unique_ptr<UcxLink> link_;
  std::vector<std::unique_ptr<UcxLink>> closing_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_CONNECTION_H_
