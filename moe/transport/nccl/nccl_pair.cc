#include "moe/transport/nccl/nccl_pair.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/memory/memory.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int64_t kBytesMin = int64_t{1} << 20;

// How much a buffer takes that must hold `bytes`.
int64_t Grown(int64_t bytes) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(bytes, kBytesMin))));
}

}  // namespace

int64_t NcclPairBytesMax(int64_t rows_bytes, int64_t results_bytes) {
  // Powers of two up to the last one are less than twice that.
  return 2 * (Grown(rows_bytes) + Grown(results_bytes));
}

absl::Status StreamBuffer::Reserve(int64_t bytes) {
  if (bytes <= capacity_) return absl::OkStatus();
  const int64_t grown = Grown(bytes);
  ASSIGN_OR_RETURN(data_, on_host_ ? stream_.AllocateHost(grown) : stream_.Allocate(grown));
  all_.push_back(data_);
  capacity_ = grown;
  // Device memory is its stream's alone until the queue has come to it; a handler computes there in another queue.
  return on_host_ ? absl::OkStatus() : stream_.Await();
}

StreamBuffer::~StreamBuffer() {
  for (void* const memory : all_) on_host_ ? stream_.FreeHost(memory) : stream_.Free(memory);
}

NcclPair::NcclPair(const NcclApi& api, std::unique_ptr<DeviceStream> stream, int peer)
    : api_(api),
      stream_(std::move(stream)),
      peer_(peer),
      device_rows_(*stream_, false),
      device_results_(*stream_, false),
      host_rows_(*stream_, true),
      host_results_(*stream_, true) {}

absl::StatusOr<std::unique_ptr<NcclPair>> NcclPair::Join(const NcclApi& api, std::unique_ptr<DeviceStream> stream,
                                                         const NcclId& id, Rank rank) {
  auto pair = absl::WrapUnique(new NcclPair(api, std::move(stream), rank == Rank::kRouter ? 1 : 0));
  NcclConfig config;
  config.blocking = 0;
  pair->stream_->MakeCurrent();
  const int result = api.comm_init_rank_config(&pair->comm_, 2, id, static_cast<int>(rank), &config);
  RETURN_IF_ERROR(NcclStatus(api, "joining", result));
  return pair;
}

NcclPair::~NcclPair() {
  if (comm_ == nullptr) return;
  stream_->MakeCurrent();
  api_.comm_abort(comm_);  // what it returns changes nothing: the pair is gone
}

absl::Status NcclPair::Poll() {
  if (state_ == State::kIdle) return absl::OkStatus();
  stream_->MakeCurrent();
  int result = kNcclSuccess;
  RETURN_IF_ERROR(NcclStatus(api_, "its state", api_.comm_get_async_error(comm_, &result)));
  RETURN_IF_ERROR(NcclStatus(api_, state_ == State::kJoining ? "joining" : "moving rows", result));
  if (result == kNcclInProgress) return absl::OkStatus();
  if (state_ == State::kJoining) state_ = State::kIdle;
  if (state_ == State::kQueueing) state_ = State::kMoving;
  if (state_ != State::kMoving) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool ended, stream_->Idle());
  if (ended) state_ = State::kIdle;
  return absl::OkStatus();
}

absl::Status NcclPair::Begin(absl::string_view what, int result) {
  RETURN_IF_ERROR(NcclStatus(api_, what, result));
  state_ = State::kQueueing;
  return absl::OkStatus();
}

absl::Status NcclPair::Send(const void* from, int64_t bytes) {
  CONCLAVE_CHECK(idle() && bytes > 0) << bytes;
  stream_->MakeCurrent();
  return Begin("sending", api_.send(from, static_cast<size_t>(bytes), kNcclBytes, peer_, comm_, stream_->native()));
}

absl::Status NcclPair::Receive(void* to, int64_t bytes) {
  CONCLAVE_CHECK(idle() && bytes > 0) << bytes;
  stream_->MakeCurrent();
  return Begin("receiving", api_.receive(to, static_cast<size_t>(bytes), kNcclBytes, peer_, comm_, stream_->native()));
}

struct NcclReaper::State {
  std::mutex mutex;
  std::condition_variable changed;
  int ending = 0;  // guarded by mutex
};

NcclReaper::NcclReaper() : state_(std::make_shared<State>()) {}

NcclReaper::~NcclReaper() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->changed.wait_for(lock, std::chrono::seconds(2), [this] { return state_->ending == 0; });
}

void NcclReaper::Take(std::unique_ptr<NcclPair> pair) {
  if (pair == nullptr) return;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    ++state_->ending;
  }
  std::thread([state = state_, pair = std::move(pair)]() mutable {
    pair.reset();
    std::lock_guard<std::mutex> lock(state->mutex);
    --state->ending;
    state->changed.notify_all();
  }).detach();
}

}  // namespace conclave
