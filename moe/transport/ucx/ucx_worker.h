// A UCX context and its one worker, with the settings that activations need, and a way to wait for messages that costs
// neither latency on idle cores nor a core that others need.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_WORKER_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_WORKER_H_

#include <ucp/api/ucp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "moe/transport/ucx/spin_gate.h"

namespace conclave {

// Which wires UCX may use.
enum class UcxLinks {
  kAuto,  // shared memory, RDMA, TCP: whatever is best between two processes
  kTcp,   // TCP alone
};

// The memory beside the process's own that messages may come from and go to.
enum class UcxDeviceMemory {
  kNone,
  kCuda,     // where UCX was built for it
  kPretend,  // the process's own, treated as if it were another: for tests
};

// How a worker reaches others and waits for them.
struct UcxWorkerOptions {
  UcxLinks links = UcxLinks::kAuto;
  bool loopback_only = true;  // no socket of this worker listens anywhere but on the loopback device
  absl::Duration spin_max = absl::Microseconds(50);
  // kCuda: the device must be the current one of the thread that creates the worker, and of the one that uses it.
  UcxDeviceMemory device_memory = UcxDeviceMemory::kNone;
};

// Whatever UCX says as a status of ours: UNAVAILABLE where a peer is gone or unreachable, else INTERNAL. `what` begins
// the message.
absl::Status UcxError(absl::string_view what, ucs_status_t status);

// Whether UCX was built for CUDA, and finds a device.
bool UcxKnowsCuda();

// Used by one thread at a time, but for Wake.
class UcxWorker {
 public:
  // INTERNAL says what UCX said.
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const UcxWorkerOptions& options);
  // Endpoints must have been given to Close.
  ~UcxWorker();

  // Lets UCX work and run callbacks, until there is nothing to do. True: something was done. Never called in a
  // callback.
  bool Progress();
  // Returns when there may be something to do, at `until`, or after Wake. It spins first, where that pays, and longer
  // where `bytes_moving` are on their way, which take their time without anybody computing meanwhile. True: it has seen
  // something come and let UCX work already, which saves the caller a Progress (a system call or two). `now` is the
  // caller's time, and brought up to date, which may be left out after a short spin.
  bool Wait(absl::Time until, int64_t bytes_moving, absl::Time* now);
  // The same without a spin, for what hardly comes within spin_longest. True: something came while it slept.
  bool Block(absl::Time until, absl::Time* now);
  // How long bytes are on their way between two processes of a machine, at most.
  static absl::Duration MoveTime(int64_t bytes);
  absl::Duration spin_longest() const { return gate_.longest(); }
  // Ends a Wait, the current or the next one. Thread-safe.
  void Wake();

  // Gives an endpoint up at once: sends that are under way end with an error, whose callbacks run in Progress.
  // Not to be called in a callback.
  void Close(ucp_ep_h endpoint);
  // Progresses until all closing endpoints are gone, `grace` at most.
  void FinishClosing(absl::Duration grace);

  // Whether messages may come from and go to the device memory that was asked for.
  bool device_rows() const { return device_rows_; }
  // UCX's name for it. REQUIRES: device_rows()
  ucs_memory_type_t device_memory_type() const { return device_memory_type_; }

  ucp_worker_h handle() const { return worker_; }
  ucp_context_h context() const { return context_; }

 private:

  explicit UcxWorker(const UcxWorkerOptions& options) : gate_(options.spin_max) {}
  absl::Status Init(const UcxWorkerOptions& options);
  absl::Status MakeContext(const UcxWorkerOptions& options, bool device_rows);
  bool Spin(absl::Duration budget, bool sparing, absl::Time until, absl::Time* now);
  bool Preempted();

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  bool device_rows_ = false;
  ucs_memory_type_t device_memory_type_ = UCS_MEMORY_TYPE_HOST;
  int event_fd_ = -1;
  SpinGate gate_;
  int64_t preemptions_ = 0;  // of this thread, as last seen
  int looks_skipped_ = 0;
  int unarmed_ = 0;  // how often UCX has refused to let anybody sleep since something last came
  std::vector<void*> closing_;  // requests of endpoints that are being closed
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_WORKER_H_
