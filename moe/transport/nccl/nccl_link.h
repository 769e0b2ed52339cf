// A router's connection to one shard as a state machine that never blocks: ask for a token and an id, connect the lane,
// greet, join, try the way once in both directions, be open, break, wait, ask again. Internal to the NCCL transport.
//
// One call is under way at a time, so that neither end ever waits for a move that the other has put behind one of its
// own: the call's header goes over the lane, its rows over the pair, then the reply's header and its rows.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_LINK_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/nccl/lane.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/nccl/nccl_transport.h"
#include "moe/transport/transport.h"

namespace conclave {

// Used by the transport's thread alone.
class NcclLink {
 public:
  // A call has come back: its id, how, and its rows if that is OK, [pairs, cols] without gaps; none where they landed.
  using Answered = std::function<void(uint64_t call_id, const absl::Status&, ConstMatView rows)>;
  // Memory of a call's own for its results, which `stream` copies into until the call is answered; null data: none.
  using Landing = std::function<MatView(uint64_t call_id, const DeviceStream& stream)>;

  // All must outlive the link.
  NcclLink(ShardId shard, const NcclTransportOptions& options, DataPlaneClient& control, NcclReaper& reaper,
           Answered answered, Landing landing)
      : shard_(shard),
        options_(options),
        control_(control),
        reaper_(reaper),
        answered_(std::move(answered)),
        landing_(std::move(landing)),
        backoff_(options.backoff_min) {}
  ~NcclLink();

  // Goes on with whatever is to be done. True: it broke, and why() says what happened; the call that was on it is lost.
  bool Step(absl::Time now);
  // When Step has something to do though nothing came over the lane.
  absl::Time due(absl::Time now) const;
  bool down() const { return state_ == State::kDown; }
  bool open() const { return state_ >= State::kOpen; }
  // Takes a call now.
  bool ready() const { return state_ == State::kOpen; }
  // Something moves whose end no socket tells.
  bool moving() const { return state_ >= State::kJoining && state_ != State::kOpen && state_ != State::kAwaiting; }
  const absl::Status& why() const { return why_; }
  // REQUIRES: ready(). Pinned rows are read after the return, for as long as a copy takes: what a call that was taken
  // back by then sends may be a mixture, and nobody hears of what becomes of it. Rows on the device are read until
  // LetGoOfRows returns. Memory that is not pinned is not used.
  void Send(const ExpertCall& call, absl::Time now);
  // Waits until rows on the device that were sent last have been copied, which waits for no peer.
  void LetGoOfRows();
  // The call's results are on their way into its own memory.
  bool landing(uint64_t call_id) const { return lands_ && call_.call_id == call_id; }
  // The lane, to wait for; null: there is none.
  const Lane* lane() const { return lane_.get(); }

 private:
  // From kJoining on there is a pair. kTrying: out and back. kSending, kAwaiting, kReceiving: a call.
  enum class State {
    kDown,
    kAsking,
    kGreeting,
    kJoining,
    kTryingOut,
    kTryingBack,
    kOpen,
    kSending,
    kAwaiting,
    kReceiving
  };
  void Ask(absl::Time now);
  absl::Status Greet(const DataPlaneOffer& offer);
  absl::Status Progressed(absl::Time now);
  absl::Status OnMessage(absl::Time now);
  absl::Status OnReply(absl::Time now);
  absl::Status OnIdle();
  absl::Status Reserve(int64_t rows_bytes, int64_t results_bytes);
  absl::Status TryOut();
  void Fetch();
  absl::Status AwaitLanding();
  void EndLanding(const absl::Status& status);
  void Fail(const absl::Status& why, absl::Time now);
  void Enter(State state, absl::Time give_up_at) { state_ = state, give_up_at_ = give_up_at; }

  const ShardId shard_;
  const NcclTransportOptions& options_;
  DataPlaneClient& control_;
  NcclReaper& reaper_;
  const Answered answered_;
  const Landing landing_;

  State state_ = State::kDown;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Time give_up_at_ = absl::InfiniteFuture();  // of the attempt, or of what moves
  absl::Duration backoff_;
  absl::Status why_, send_failure_;
  uint64_t connection_ = 0, last_sequence_ = 0;
  uint8_t version_ = kWireVersion;  // of the headers, as Connect agreed on it
  NcclId id_ = {};
  std::unique_ptr<Lane> lane_;
  std::unique_ptr<NcclPair> pair_;
  std::unique_ptr<DeviceEvent> rows_read_;  // of the pair's stream
  WireHeader call_;                                     // under way
  int64_t rows_bytes_max_ = 0, results_bytes_max_ = 0;  // of all calls so far
  bool reply_here_ = false;                             // in message_
  bool lands_ = false;    // see landing()
  bool copying_ = false;  // of kReceiving and kTryingBack: the rows are on their way from the device
  std::vector<std::byte> meta_;
  Lane::Message message_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_LINK_H_
