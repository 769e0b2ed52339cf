#include "moe/transport/ucx/ucx_worker.h"

#include <poll.h>
#include <sys/resource.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/transport/data_plane/wire.h"

namespace conclave {
namespace {

// What UCX would print on standard output becomes lines of our log. Its warnings are of no interest to users: a
// setting for a wire that this machine lacks is one of them.
ucs_log_func_rc_t LogOfUcx(const char*, unsigned, const char*, ucs_log_level_t level, const ucs_log_component_config_t*,
                           const char* format, va_list arguments) {
  if (level > UCS_LOG_LEVEL_WARN) return UCS_LOG_FUNC_RC_STOP;
  char text[512];
  vsnprintf(text, sizeof(text), format, arguments);
  if (level == UCS_LOG_LEVEL_FATAL) {
    LogError(absl::StrCat("ucx: ", text));
  } else {
    LogDebug(absl::StrCat("ucx: ", text));
  }
  return UCS_LOG_FUNC_RC_STOP;
}

struct Setting {
  const char* name;
  const char* value;
};

// Settings of the wires are named as UCX's own tables name them: MM_ is shared memory, bare names are TCP's.
constexpr Setting kSettings[] = {
    // A peer that died shows within this time also where no call is in flight.
    {"KEEPALIVE_INTERVAL", "200ms"},
    // Without it a shared-memory peer that dies is never noticed.
    {"MM_ERROR_HANDLING", "y"},
    // 2 MB in flight; with the default of 64 x 8 KB senders stop and go at a megabyte, and with more the segments,
    // which are used in turn, do not stay in a core's cache. A segment takes one fragment (kFragmentBytesShared) whole.
    {"MM_FIFO_SIZE", "128"},
    {"MM_SEG_SIZE", "16640"},
    {"TX_SEG_SIZE", "256K"},
    {"RX_SEG_SIZE", "256K"},
    // UCX 1.13 takes its own endpoint for one that failed before it had begun, and ends the process, where a connection
    // that it waited for is gone before the first bytes (dying_peer_test). Neither is a thread to be held up by a host
    // that does not answer.
    {"CONN_NB", "y"},
    // One lane, so that the fragments of a message arrive in order.
    {"MAX_EAGER_RAILS", "1"},
};

// UCX's rendezvous serves device memory alone. Without a lane for it, nothing asks the kernel for TCP's news between
// two processes that share memory.
constexpr Setting kHostSettings[] = {{"MAX_RNDV_RAILS", "0"}};
// The receiver fetches: nobody writes to memory that its owner may have taken back. The last one is CUDA IPC's, which
// would else do so over NVLink alone.
constexpr Setting kDeviceSettings[] = {
    {"MAX_RNDV_RAILS", "1"},
    {"RNDV_SCHEME", "get_zcopy"},
    {"ENABLE_GET_ZCOPY", "y"},
};

constexpr int kLooksPerClock = 4;
// How fast bytes move at least, over the loopback device and all copies included, and how long that is waited for.
constexpr int64_t kBytesPerNanosecond = 4;
constexpr absl::Duration kMoveMax = absl::Milliseconds(1);
// Where spins do not pay or others want the core: what comes within so short a time costs less to wait for than a
// system call, and whoever wants the core hardly notices.
constexpr absl::Duration kSparingSpin = absl::Microseconds(8), kSparingMoveMax = absl::Microseconds(50);
constexpr int kSpinsPerLook = 16;
// Who takes the core away for less is most likely the peer, woken where we spin, and not somebody who computes.
constexpr absl::Duration kTurnOfOthers = absl::Microseconds(500);

// UCX does not let anybody sleep while a message of its own waits for room at a peer, and a peer that stands still
// makes none for seconds. After so many refusals in a row in which nothing came it is looked at now and then.
constexpr int kUnarmedMax = 64;
constexpr absl::Duration kNap = absl::Milliseconds(1);

}  // namespace

absl::Status UcxError(absl::string_view what, ucs_status_t status) {
  const std::string text = absl::StrCat(what, ": ", ucs_status_string(status));
  switch (status) {
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_UNSUPPORTED:
      return absl::InternalError(text);
    default:
      return absl::UnavailableError(text);
  }
}

bool UcxKnowsCuda() {
  UcxWorkerOptions options;
  options.device_memory = UcxDeviceMemory::kCuda;
  const absl::StatusOr<std::unique_ptr<UcxWorker>> worker = UcxWorker::Create(options);
  return worker.ok() && (*worker)->device_rows();
}

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(const UcxWorkerOptions& options) {
  auto worker = absl::WrapUnique(new UcxWorker(options));
  RETURN_IF_ERROR(worker->Init(options));
  return worker;
}

absl::Status UcxWorker::MakeContext(const UcxWorkerOptions& options, bool device_rows) {
  [[maybe_unused]] static const bool logged = [] {
    ucs_log_push_handler(&LogOfUcx);
    return true;
  }();
  ucp_config_t* config = nullptr;
  if (const ucs_status_t read = ucp_config_read(nullptr, nullptr, &config); read != UCS_OK) {
    return absl::InternalError(absl::StrCat("ucx configuration: ", ucs_status_string(read)));
  }
  // cma copies through the kernel and is slower than shared memory at every size; sysv is a second shared memory.
  ucp_config_modify(config, "TLS", options.links == UcxLinks::kTcp ? "tcp,self" : "^sysv,cma");
  if (options.loopback_only) ucp_config_modify(config, "NET_DEVICES", "lo");
  const auto set = [config](absl::Span<const Setting> settings) {
    for (const Setting& setting : settings) ucp_config_modify(config, setting.name, setting.value);
  };
  set(kSettings);
  set(device_rows ? absl::MakeConstSpan(kDeviceSettings) : absl::MakeConstSpan(kHostSettings));
  ucp_params_t parameters = {};
  parameters.field_mask = UCP_PARAM_FIELD_FEATURES;
  parameters.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  const ucs_status_t made = ucp_init(&parameters, config, &context_);
  ucp_config_release(config);
  if (made == UCS_OK) return absl::OkStatus();
  context_ = nullptr;
  return absl::InternalError(absl::StrCat("ucx context: ", ucs_status_string(made)));
}

absl::Status UcxWorker::Init(const UcxWorkerOptions& options) {
  device_rows_ = options.device_memory != UcxDeviceMemory::kNone;
  RETURN_IF_ERROR(MakeContext(options, device_rows_));
  if (options.device_memory == UcxDeviceMemory::kCuda) {
    device_memory_type_ = UCS_MEMORY_TYPE_CUDA;
    ucp_context_attr_t attributes = {};
    attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
    const bool known = ucp_context_query(context_, &attributes) == UCS_OK;
    device_rows_ = known && (attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
    if (!device_rows_) {
      ucp_cleanup(std::exchange(context_, nullptr));
      RETURN_IF_ERROR(MakeContext(options, /*device_rows=*/false));
    }
  }
  ucp_worker_params_t worker = {};
  worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_AM_ALIGNMENT;
  worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  worker.am_alignment = kBodyAlignment;  // so that a shard can compute on rows where UCX has put them
  if (const ucs_status_t status = ucp_worker_create(context_, &worker, &worker_); status != UCS_OK) {
    return absl::InternalError(absl::StrCat("ucx worker: ", ucs_status_string(status)));
  }
  if (const ucs_status_t status = ucp_worker_get_efd(worker_, &event_fd_); status != UCS_OK) {
    return absl::InternalError(absl::StrCat("ucx event descriptor: ", ucs_status_string(status)));
  }
  return absl::OkStatus();
}

UcxWorker::~UcxWorker() {
  if (worker_ != nullptr) {
    FinishClosing(absl::Seconds(1));
    ucp_worker_destroy(worker_);
  }
  if (context_ != nullptr) ucp_cleanup(context_);
}

bool UcxWorker::Progress() {
  bool worked = false;
  // Bounded, so that a peer that never stops sending cannot keep the caller from its deadlines.
  for (int i = 0; i < 64 && ucp_worker_progress(worker_) != 0; ++i) worked = true;
  if (worked) unarmed_ = 0;
  if (!closing_.empty()) {
    const auto gone = [](void* request) {
      if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
      ucp_request_free(request);
      return true;
    };
    closing_.erase(std::remove_if(closing_.begin(), closing_.end(), gone), closing_.end());
  }
  return worked;
}

// Asking costs a third of a microsecond, so that spins that go well do it now and then only.
bool UcxWorker::Preempted() {
  struct rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) != 0) return false;
  looks_skipped_ = 0;
  return std::exchange(preemptions_, usage.ru_nivcsw) != usage.ru_nivcsw;
}

bool UcxWorker::Spin(absl::Duration budget, bool sparing, absl::Time until, absl::Time* now) {
  const absl::Time begin = *now, end = std::min(begin + budget, until);
  bool came = false;
  do {
    // The clock costs a tenth of a look.
    for (int i = 0; i < kLooksPerClock && !came; ++i) came = ucp_worker_progress(worker_) != 0;
  } while (!came && (*now = absl::Now()) < end);
  const bool look = !came || ++looks_skipped_ >= kSpinsPerLook;
  if (look) *now = absl::Now();
  // A sparing spin is too short to say anything.
  if (!sparing) gate_.Spun(came, look && Preempted(), /*briefly=*/*now - begin <= kTurnOfOthers);
  return came;
}

absl::Duration UcxWorker::MoveTime(int64_t bytes) { return absl::Nanoseconds(bytes / kBytesPerNanosecond); }

bool UcxWorker::Wait(absl::Time until, int64_t bytes_moving, absl::Time* now) {
  const absl::Time begin = *now;
  if (begin >= until) {
    *now = absl::Now();
    return false;
  }
  const absl::Duration allowed = gate_.Budget();
  const bool sparing = allowed == absl::ZeroDuration();
  const absl::Duration moving = MoveTime(bytes_moving);
  const absl::Duration budget =
      sparing ? std::min(moving, kSparingMoveMax) + kSparingSpin : std::min(moving, kMoveMax) + allowed;
  if (Spin(budget, sparing, until, now)) {
    unarmed_ = 0;
    if (sparing) gate_.Blocked(*now - begin);
    return true;
  }
  if (Block(until, now)) gate_.Blocked(*now - begin);
  return false;
}

bool UcxWorker::Block(absl::Time until, absl::Time* now) {
  const bool armed = ucp_worker_arm(worker_) == UCS_OK;
  *now = absl::Now();
  unarmed_ = armed ? 0 : unarmed_ + 1;
  if (!armed && unarmed_ < kUnarmedMax) return false;  // something has come already
  const absl::Duration left = std::min(until - *now, armed ? absl::Hours(1) : kNap);
  if (left <= absl::ZeroDuration()) return false;
  const timespec timeout = absl::ToTimespec(left);
  pollfd descriptor = {event_fd_, POLLIN, 0};
  const int ready = ppoll(&descriptor, armed ? 1 : 0, &timeout, nullptr);
  *now = absl::Now();
  return ready > 0;
}

void UcxWorker::Wake() { ucp_worker_signal(worker_); }

void UcxWorker::Close(ucp_ep_h endpoint) {
  ucp_request_param_t parameters = {};
  parameters.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  parameters.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &parameters);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void UcxWorker::FinishClosing(absl::Duration grace) {
  const absl::Time until = absl::Now() + grace;
  do {
    Progress();
  } while (!closing_.empty() && absl::Now() < until);
}

}  // namespace conclave
