// One router as a shard's NCCL server sees it: a state machine that never blocks. Internal to the server.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PEER_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PEER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/nccl/lane.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/peer_gate.h"

namespace conclave {

// What came of a step that cannot be gone on from.
struct NcclOffence {
  absl::Status why;      // OK: there is none
  bool hostile = false;  // no honest router does that, of which kind it is:
  Refusal kind = Refusal::kMessage;
};

// Used by the server's thread alone.
class NcclPeer {
 public:
  NcclPeer(const NcclExpertServerOptions& options, int socket, std::string host, absl::Time greet_by)
      : options_(options), lane_(socket), peer_{"", std::move(host)}, give_up_at_(greet_by) {}

  // Takes in messages and moves rows on. `on_device`: where the handler wants them.
  NcclOffence Step(absl::Time now, bool on_device);
  // A greeting has come; the server looks its token up and answers.
  bool greets() const { return state_ == State::kGreeting && has_next_; }
  const Lane::Message& greeting() const { return next_; }
  void Refuse(const absl::Status& why);
  // UNAVAILABLE, INTERNAL: the communicator or its stream cannot be had; the router has been told.
  absl::Status Welcome(std::string name, const NcclId& id, absl::Time now);

  // A call is complete. Run it, then answer.
  bool has_call() const { return state_ == State::kReady; }
  // REQUIRES: has_call(). INVALID_ARGUMENT: the message asks for what cannot be.
  absl::StatusOr<ExpertCall> Call(bool on_device) const;
  // Where the results go. RESOURCE_EXHAUSTED. REQUIRES: Call gave `call`
  absl::StatusOr<MatView> Out(const ExpertCall& call, bool on_device);
  // The results of Out are in place, or `status` is not OK.
  absl::Status Answer(const absl::Status& status, bool on_device, absl::Time now);

  // Something moves whose end no socket tells.
  bool moving() const { return pair_ != nullptr && state_ != State::kOpen && state_ != State::kReady; }
  // No call is under way, nothing is left to be sent.
  bool quiet() const { return state_ <= State::kOpen && !has_next_ && !lane_.sending(); }
  absl::Time give_up_at() const { return give_up_at_; }
  const Lane& lane() const { return lane_; }
  const Peer& peer() const { return peer_; }
  uint64_t connection() const { return connection_; }  // 0: it has not been welcomed
  std::unique_ptr<NcclPair> TakePair() { return std::move(pair_); }

 private:
  // kTryingIn, kTryingOut: what came first goes back. kReceiving, kReady, kAnswering: a call.
  enum class State { kGreeting, kJoining, kTryingIn, kTryingOut, kOpen, kReceiving, kReady, kAnswering };
  NcclOffence TakeIn();
  absl::Status TakeCall(absl::Time now);
  absl::Status OnIdle(bool on_device);
  void Enter(State state, absl::Time give_up_at) { state_ = state, give_up_at_ = give_up_at; }

  const NcclExpertServerOptions& options_;
  Lane lane_;
  Peer peer_;
  State state_ = State::kGreeting;
  absl::Time give_up_at_;
  absl::Time arrival_;
  uint64_t connection_ = 0, last_sequence_ = 0;
  std::unique_ptr<NcclPair> pair_;
  bool copying_ = false;   // of kReceiving: the rows are on their way from the device
  bool has_next_ = false;  // in next_
  Lane::Message message_;  // the call under way
  Lane::Message next_;     // the greeting, or the call after that one
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PEER_H_
