// Calls that have come to a shard and wait for their turn, with their memory. Internal to the UCX server.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_CALLS_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_CALLS_H_

#include <cstddef>
#include <deque>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/ucx/ucx_peer.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// A call that came and waits for its turn.
struct UcxCall {
  UcxPeer* peer = nullptr;
  WireHeader header;
  BodyBuffer body;            // all of it, or what comes before the rows
  std::byte* held = nullptr;  // the body in UCX's memory, to be given back; null: it was gathered
  bool on_device = false;     // its rows come to, or are in, peer->device_rows()
  void* offer = nullptr;      // of those rows, not yet taken
  absl::Time arrival;
};

// Used by the server's thread alone.
class UcxCalls {
 public:
  // Results on the device that a router has not fetched, before its next call runs; their memory is its own.
  static constexpr int kResultsOfferedMax = 2;

  // `memory`: of bodies; may be null.
  UcxCalls(UcxWorker& worker, HostMemory memory) : worker_(worker), memory_(std::move(memory)) {}

  bool empty() const { return calls_.empty(); }
  size_t size() const { return calls_.size(); }
  // At the end of the queue.
  UcxCall& Add(UcxPeer& peer, const WireHeader& header, absl::Time arrival);
  // Fetches rows from devices, one call of each router at a time, in order. A call for whose rows there is no memory
  // goes to `refuse` and is gone.
  void Fetch(absl::FunctionRef<void(const UcxCall&)> refuse);
  // Whether one of them can run.
  bool ready() const;
  // The first that can run, if there is one. To be given back.
  absl::optional<UcxCall> TakeReady();
  // The call is over: its memory serves others.
  void GiveBack(UcxCall& call);
  // Calls of a router that is gone, or of all (null).
  void Drop(const UcxPeer* peer);
  // Memory of an earlier message for the next one.
  BodyBuffer SpareBody();

 private:
  static constexpr size_t kKeptBodies = 8;
  static bool Ready(const UcxCall& call);

  UcxWorker& worker_;
  const HostMemory memory_;
  std::deque<UcxCall> calls_;
  std::vector<BodyBuffer> bodies_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_CALLS_H_
