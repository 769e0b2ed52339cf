#include "moe/transport/nccl/fake_nccl.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

namespace conclave::fake_nccl {
namespace {

constexpr int kUnhandled = 1;  // ncclUnhandledCudaError

std::atomic<bool> nobody_joins{false}, joining_fails{false}, moves_stall{false}, moves_fail{false}, moves_damage{false};
std::atomic<int> live{0}, copy_polls{0};
std::atomic<int64_t> allocated{0};

// Memory of AllocateHost, by where it begins.
std::mutex pinned_mutex;
std::map<const std::byte*, int64_t>& PinnedMemory() {
  static auto* const memory = new std::map<const std::byte*, int64_t>;  // guarded by pinned_mutex
  return *memory;
}

// Device memory that a stream has given out.
std::mutex given_mutex;
std::set<const void*>& GivenMemory() {
  static auto* const memory = new std::set<const void*>;  // guarded by given_mutex
  return *memory;
}

// What a rank has put out for the other to take.
struct Way {
  const void* from = nullptr;
  size_t bytes = 0;
  bool posted = false, taken = false;
};

// The two ranks of one id.
struct Group {
  std::mutex mutex;
  int joined = 0;  // guarded by mutex
  Way ways[2];     // guarded by mutex; by sender
};

std::mutex groups_mutex;
std::map<std::string, std::shared_ptr<Group>>& Groups() {
  static auto* const groups = new std::map<std::string, std::shared_ptr<Group>>;  // guarded by groups_mutex
  return *groups;
}

class Event final : public DeviceEvent {
 public:
  void* native() const override { return nullptr; }
  absl::StatusOr<bool> Done() const override { return done; }
  absl::Status Wait() const override { return absl::OkStatus(); }  // there is no thread that could go on meanwhile
  bool done = true;
};

// Work in order; each piece is asked again and again until it says that it has ended.
class Stream final : public DeviceStream {
 public:
  void* native() const override { return const_cast<Stream*>(this); }
  void MakeCurrent() override {}
  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    allocated += bytes;
    void* const memory = std::malloc(static_cast<size_t>(bytes));
    Put([memory] {
      std::lock_guard<std::mutex> lock(given_mutex);
      GivenMemory().insert(memory);
      return true;
    });
    return memory;
  }
  void Free(void* memory) override {
    std::lock_guard<std::mutex> lock(given_mutex);
    GivenMemory().erase(memory);
    std::free(memory);
  }
  absl::StatusOr<void*> AllocateHost(int64_t bytes) override {
    auto* const memory = static_cast<std::byte*>(std::malloc(static_cast<size_t>(bytes)));
    std::lock_guard<std::mutex> lock(pinned_mutex);
    PinnedMemory()[memory] = bytes;
    return memory;
  }
  void FreeHost(void* memory) override {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    PinnedMemory().erase(static_cast<std::byte*>(memory));
    std::free(memory);
  }
  bool Pinned(const void* host) const override {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    const auto after = PinnedMemory().upper_bound(static_cast<const std::byte*>(host));
    if (after == PinnedMemory().begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return host < begin + bytes;
  }
  void CopyIn(void* device, const void* host, int64_t bytes) override { Copy(device, host, bytes); }
  void CopyOut(void* host, const void* device, int64_t bytes) override { Copy(host, device, bytes); }
  void CopyWithin(void* to, const void* from, int64_t bytes) override { Copy(to, from, bytes); }
  void WaitFor(const DeviceEvent& event) override {
    Put([&event] {
      const absl::StatusOr<bool> done = event.Done();
      return !done.ok() || *done;
    });
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> NewEvent() override { return std::make_unique<Event>(); }
  void Record(DeviceEvent& event) override {
    auto* const place = static_cast<Event*>(&event);
    place->done = false;
    Put([place] { return place->done = true; });
  }
  absl::StatusOr<bool> Idle() override {
    while (!work_.empty() && work_.front()()) work_.pop_front();
    return work_.empty();
  }
  void Put(std::function<bool()> work) { work_.push_back(std::move(work)); }

 private:
  void Copy(void* to, const void* from, int64_t bytes) {
    Put([=, left = copy_polls.load()]() mutable {
      if (left-- > 0) return false;
      std::memcpy(to, from, static_cast<size_t>(bytes));
      return true;
    });
  }

  std::deque<std::function<bool()>> work_;
};

struct Communicator {
  std::shared_ptr<Group> group;
  int rank = 0;
  bool joined = false;
  int failed = 0;
  std::function<void()> queued;  // a move that is not on its stream yet
};

int GetUniqueId(NcclId* id) {
  static std::atomic<uint64_t> last{0};
  const uint64_t number = ++last;
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id, &number, sizeof(number));
  return kNcclSuccess;
}

int Init(NcclComm* comm, int ranks, NcclId id, int rank, NcclConfig* config) {
  if (ranks != 2 || config->blocking != 0 || config->size != sizeof(NcclConfig)) return kUnhandled;
  auto* const fresh = new Communicator;
  fresh->rank = rank;
  {
    std::lock_guard<std::mutex> lock(groups_mutex);
    std::shared_ptr<Group>& group = Groups()[std::string(id.bytes, sizeof(id.bytes))];
    if (group == nullptr) group = std::make_shared<Group>();
    fresh->group = group;
  }
  std::lock_guard<std::mutex> lock(fresh->group->mutex);
  ++fresh->group->joined;
  ++live;
  *comm = fresh;
  return kNcclInProgress;
}

int GetAsyncError(NcclComm handle, int* result) {
  Communicator& comm = *static_cast<Communicator*>(handle);
  *result = kNcclInProgress;
  if (!comm.joined) {
    std::lock_guard<std::mutex> lock(comm.group->mutex);
    comm.joined = comm.group->joined == 2 && !nobody_joins;
    if (joining_fails) comm.failed = kUnhandled;
  } else if (comm.queued) {
    comm.queued();
    comm.queued = nullptr;
    if (moves_fail) comm.failed = kUnhandled;
  } else {
    *result = kNcclSuccess;
  }
  if (comm.failed != 0) *result = comm.failed;
  return kNcclSuccess;
}

int Abort(NcclComm handle) {
  auto* const comm = static_cast<Communicator*>(handle);
  {
    std::lock_guard<std::mutex> lock(comm->group->mutex);
    comm->group->ways[comm->rank] = Way{};
  }
  delete comm;
  --live;
  return kNcclSuccess;
}

int Send(const void* buffer, size_t count, int, int, NcclComm handle, NcclStream stream) {
  auto& comm = *static_cast<Communicator*>(handle);
  comm.queued = [group = comm.group, rank = comm.rank, buffer, count, stream] {
    static_cast<Stream*>(stream)->Put([=, posted = false]() mutable {
      if (moves_stall) return false;
      std::lock_guard<std::mutex> lock(group->mutex);
      Way& way = group->ways[rank];
      if (!posted) way = Way{buffer, count, true, false};
      posted = true;
      if (!way.taken) return false;
      way = Way{};
      return true;
    });
  };
  return kNcclInProgress;
}

int Receive(void* buffer, size_t count, int, int peer, NcclComm handle, NcclStream stream) {
  auto& comm = *static_cast<Communicator*>(handle);
  comm.queued = [group = comm.group, peer, buffer, count, stream] {
    static_cast<Stream*>(stream)->Put([=] {
      if (moves_stall) return false;
      std::lock_guard<std::mutex> lock(group->mutex);
      Way& way = group->ways[peer];
      if (!way.posted || way.taken) return false;
      if (way.bytes != count) std::abort();  // the ends do not agree on what moves: a mistake of the transport
      std::memcpy(buffer, way.from, count);
      if (moves_damage) static_cast<unsigned char*>(buffer)[count / 2] += 4;
      way.taken = true;
      return true;
    });
  };
  return kNcclInProgress;
}

const char* ErrorString(int result) { return result == kUnhandled ? "unhandled cuda error" : "another error"; }
const char* LastError(NcclComm) { return "the fake was told to"; }

}  // namespace

NcclApi Api(int version) {
  NcclApi api;
  api.version = version;
  api.get_unique_id = &GetUniqueId;
  api.comm_init_rank_config = &Init;
  api.comm_get_async_error = &GetAsyncError;
  api.comm_abort = &Abort;
  api.send = &Send;
  api.receive = &Receive;
  api.get_error_string = &ErrorString;
  api.get_last_error = &LastError;
  return api;
}

StreamFactory Streams() {
  return [] { return std::make_unique<Stream>(); };
}

void NobodyJoins() { nobody_joins = true; }
void JoiningFails() { joining_fails = true; }
void MovesStall() { moves_stall = true; }
void MovesFail() { moves_fail = true; }
void MovesDamage() { moves_damage = true; }
void CopiesTake(int polls) { copy_polls = polls; }
void Reset() {
  copy_polls = 0;
  nobody_joins = joining_fails = moves_stall = moves_fail = moves_damage = false;
}
int communicators() { return live; }
int64_t device_bytes() { return allocated; }
bool Given(const void* memory) {
  std::lock_guard<std::mutex> lock(given_mutex);
  return GivenMemory().count(memory) > 0;
}

}  // namespace conclave::fake_nccl
