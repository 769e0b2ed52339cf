// A communicator of two ranks, a router and a shard, so that the death of one process concerns the pair alone. Nothing
// here waits: a pair is made, and moves one piece of memory at a time, while Poll is called; the owner keeps the
// deadlines and gives up a pair that does not get on.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PAIR_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PAIR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/transport/nccl/nccl_api.h"

namespace conclave {

// A new pair moves so many bytes to the shard and back before it is used.
inline constexpr int64_t kNcclTryBytes = 256;

// The most device memory that a pair takes, outgrown pieces included, for calls of up to so many bytes there and back.
int64_t NcclPairBytesMax(int64_t rows_bytes, int64_t results_bytes);

// Memory of a stream that grows when more is asked for. Owned by a pair, whose moves use it. What it has outgrown it
// keeps to its end: freeing pinned memory waits for every kernel of the process, also for one that waits for a peer.
class StreamBuffer {
 public:
  // `on_host`: pinned memory of this process; else the device's.
  StreamBuffer(DeviceStream& stream, bool on_host) : stream_(stream), on_host_(on_host) {}
  ~StreamBuffer();
  StreamBuffer(const StreamBuffer&) = delete;
  StreamBuffer& operator=(const StreamBuffer&) = delete;

  // Makes room for `bytes`, for any queue; what was there is lost. RESOURCE_EXHAUSTED, or the stream's failure.
  // REQUIRES: nothing on the stream waits for a peer
  absl::Status Reserve(int64_t bytes);
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  DeviceStream& stream_;
  const bool on_host_;
  void* data_ = nullptr;
  int64_t capacity_ = 0;
  std::vector<void*> all_;  // data_ is the last
};

// Used by one thread.
class NcclPair {
 public:
  enum class Rank { kRouter = 0, kShard = 1 };

  // Begins to join; the other end must do the same with the same id. UNAVAILABLE: NCCL refuses.
  static absl::StatusOr<std::unique_ptr<NcclPair>> Join(const NcclApi& api, std::unique_ptr<DeviceStream> stream,
                                                        const NcclId& id, Rank rank);
  // Gives up what is on its way. May take long where a peer does not answer: see Leave.
  ~NcclPair();

  // Goes on. UNAVAILABLE or INTERNAL: the pair is of no use any more.
  absl::Status Poll();
  // The communicator stands.
  bool joined() const { return state_ != State::kJoining; }
  // Nothing is on its way: the last move has ended, the copies queued since included.
  bool idle() const { return state_ == State::kIdle; }

  // Begins to move `bytes` of device memory to the other end, which must receive exactly as many, or from there. Copies
  // put on the stream before are done first. UNAVAILABLE: NCCL refuses. REQUIRES: idle(), bytes > 0
  absl::Status Send(const void* from, int64_t bytes);
  absl::Status Receive(void* to, int64_t bytes);
  // Copies were put on the stream: idle() waits for them. REQUIRES: idle()
  void AwaitCopies() { state_ = State::kMoving; }

  DeviceStream& stream() { return *stream_; }
  StreamBuffer& device_rows() { return device_rows_; }        // for requests
  StreamBuffer& device_results() { return device_results_; }  // for replies
  StreamBuffer& host_rows() { return host_rows_; }            // the same, on their way from and to host memory
  StreamBuffer& host_results() { return host_results_; }

 private:
  // kQueueing: NCCL puts the move on the stream, with threads of its own at first. kMoving: it is there.
  enum class State { kJoining, kIdle, kQueueing, kMoving };
  NcclPair(const NcclApi& api, std::unique_ptr<DeviceStream> stream, int peer);
  absl::Status Begin(absl::string_view what, int result);

  const NcclApi& api_;
  const std::unique_ptr<DeviceStream> stream_;
  const int peer_;
  NcclComm comm_ = nullptr;
  State state_ = State::kJoining;
  StreamBuffer device_rows_, device_results_, host_rows_, host_results_;
};

// Ends pairs on threads of its own, since ending one whose peer is silent may take long. Thread-safe.
class NcclReaper {
 public:
  NcclReaper();
  // Waits for what is still ending, up to two seconds; what takes longer is left to itself.
  ~NcclReaper();
  void Take(std::unique_ptr<NcclPair> pair);

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_PAIR_H_
