// device_transport_bench [--router cuda:N] [--shard cuda:N] [--nccl no] [--checksums yes]: round trips of rows between
// two processes on GPUs, p50 and p99: NCCL's own send and receive, the NCCL transport, UCX from device to device, where
// it was built for CUDA, and UCX and gRPC with rows staged through the shard's host memory. As many bytes there as
// back; the shard computes nothing. The router's rows and results lie on its device, which the NCCL transport copies
// once there, behind an event; "pinned": in pinned host memory, so that there is a copy to the device and one back;
// "unpinned": in other memory, which the NCCL transport copies once more. "ucx, staged" and gRPC have pinned ones;
// "ucx, staged on both sides" has the transport bring them from the device and back. At the end the shard is killed in
// the midst of calls.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "moe/base/check.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/kernels/accelerator/piecewise_copy.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/dial/dial_shards.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/ucx/ucx_expert_server.h"

namespace conclave {
namespace {

constexpr int kHidden = 7168;  // of BF16: a row is 14 KiB
constexpr int kRows[] = {1, 73, 256, 1024};
constexpr int64_t kBytesMax = int64_t{1024} * kHidden * 2;
constexpr int kWarmUps = 50;

// How often so many bytes go there and back.
int RoundsOf(int64_t bytes) { return bytes < kBytesMax ? 1000 : 250; }

std::unique_ptr<Accelerator> MustOpen(const std::string& device) {
  auto accelerator = OpenAccelerator(device);
  CONCLAVE_CHECK_OK(accelerator.status());
  return *std::move(accelerator);
}

constexpr LayerId kEchoLayer{1};

// Results are whatever lies where they go: on the device for NCCL and UCX, through it for the others. Calls of
// kEchoLayer get their rows back.
class NoExperts final : public ExpertHandler {
 public:
  NoExperts(Accelerator& accelerator, bool on_device) : accelerator_(accelerator), on_device_(on_device) {
    auto memory = accelerator.Allocate(kBytesMax);
    CONCLAVE_CHECK_OK(memory.status());
    memory_ = *memory;
    auto results = PiecewiseCopy::Create(accelerator);
    CONCLAVE_CHECK_OK(results.status());
    results_.emplace(*std::move(results));
  }
  ShardDescription Describe() const override {
    ShardDescription description;
    description.name = "none";
    return description;
  }
  bool TakesDeviceRows() const override { return on_device_; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    if (on_device_ && call.layer != kEchoLayer) return absl::OkStatus();
    return on_device_ ? Echo(call, out) : RunInPieces(call, out, {});
  }
  absl::Status RunInPieces(const ExpertCall& call, MatView out, const std::function<void(int64_t)>& landed) override {
    accelerator_.CopyIn(memory_, call.rows.data, call.rows.rows * call.rows.cols * 2);
    return results_->Out(out.data, memory_, out.rows * out.cols * 2, landed);
  }

 private:
  absl::Status Echo(const ExpertCall& call, MatView out) {
    auto stream = accelerator_.NewStream();
    CONCLAVE_CHECK_OK(stream.status());
    (*stream)->CopyWithin(out.data, call.rows.data, out.rows * out.cols * 2);
    return (*stream)->Await();
  }

  Accelerator& accelerator_;
  const bool on_device_;
  void* memory_ = nullptr;
  absl::optional<PiecewiseCopy> results_;
};

void Await(NcclPair& pair) {
  do {
    CONCLAVE_CHECK_OK(pair.Poll());
  } while (!pair.idle());
}

std::unique_ptr<NcclPair> MustJoin(const NcclApi& api, Accelerator& accelerator, const NcclId& id,
                                   NcclPair::Rank rank) {
  auto stream = accelerator.NewStream();
  CONCLAVE_CHECK_OK(stream.status());
  auto pair = NcclPair::Join(api, *std::move(stream), id, rank);
  CONCLAVE_CHECK_OK(pair.status());
  Await(**pair);
  CONCLAVE_CHECK_OK((*pair)->device_rows().Reserve(kBytesMax));
  return *std::move(pair);
}

// NCCL's own round trips, of one end; the router's in microseconds.
std::vector<double> MoveThereAndBack(NcclPair& pair, int64_t bytes, bool router) {
  std::vector<double> micros;
  for (int i = 0; i < kWarmUps + RoundsOf(bytes); ++i) {
    const absl::Time begin = absl::Now();
    for (const bool sends : {router, !router}) {
      CONCLAVE_CHECK_OK(sends ? pair.Send(pair.device_rows().data(), bytes)
                              : pair.Receive(pair.device_rows().data(), bytes));
      Await(pair);
    }
    if (i >= kWarmUps) micros.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
  }
  return micros;
}

// Serves until it is killed. Writes the id of NCCL's own round trips, or as many zeros, then the addresses, one a line.
[[noreturn]] void Serve(const std::string& device, bool with_nccl, int pipe) {
  const auto accelerator = MustOpen(device);
  NoExperts on_device(*accelerator, true), staged(*accelerator, false);
  NcclId id = {};
  std::unique_ptr<NcclExpertServer> nccl;
  const NcclApi* api = nullptr;
  if (with_nccl) {
    const auto loaded = LoadNccl();
    CONCLAVE_CHECK_OK(loaded.status());
    api = *loaded;
    CONCLAVE_CHECK(api->get_unique_id(&id) == kNcclSuccess);
    NcclExpertServerOptions options;
    options.api = api;
    options.new_stream = [&] { return accelerator->NewStream(); };
    options.gpu = accelerator->info().uuid;
    auto started = NcclExpertServer::Start(options);
    CONCLAVE_CHECK_OK(started.status());
    nccl = *std::move(started);
    nccl->SetHandler(&on_device);
  }
  UcxExpertServerOptions options;
  options.memory = PinnedMemory(*accelerator);
  auto ucx = UcxExpertServer::Start(options);
  CONCLAVE_CHECK_OK(ucx.status());
  (*ucx)->SetHandler(&staged);
  const std::shared_ptr<DeviceStream> stream = *accelerator->NewStream();
  options.device_memory = SharedDeviceMemory(*accelerator);
  options.make_current = [stream] { stream->MakeCurrent(); };
  options.worker.device_memory = UcxDeviceMemory::kCuda;
  auto device_ucx = UcxExpertServer::Start(options);
  CONCLAVE_CHECK_OK(device_ucx.status());
  (*device_ucx)->SetHandler(&on_device);
  auto on_device_control =
      GrpcExpertServer::Start("127.0.0.1:0", on_device, device_ucx->get(), nullptr, nccl.get());
  auto control = GrpcExpertServer::Start("127.0.0.1:0", staged, ucx->get());
  CONCLAVE_CHECK_OK(on_device_control.status());
  CONCLAVE_CHECK_OK(control.status());
  std::string text(id.bytes, sizeof(id.bytes));
  absl::StrAppend(&text, (*on_device_control)->address(), "\n", (*control)->address(), "\n");
  CONCLAVE_CHECK(write(pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(pipe);
  std::unique_ptr<NcclPair> pair;
  if (with_nccl) {
    pair = MustJoin(*api, *accelerator, id, NcclPair::Rank::kShard);
    for (const int rows : kRows) MoveThereAndBack(*pair, int64_t{rows} * kHidden * 2, false);
  }
  while (true) pause();
}

// Rows and results of one call.
struct Matrices {
  MatView in, out;  // [rows, kHidden]
  const DeviceEvent* ready = nullptr;
};

// Makes a call of `rows` rows and waits for its end.
absl::Status CallOnce(Transport& transport, const Matrices& at, LayerId layer) {
  static uint64_t last_id = 0;
  const int64_t rows = at.in.rows;
  std::vector<uint32_t> offsets(rows + 1);
  const std::vector<int32_t> experts(rows, 0);
  for (int64_t i = 0; i <= rows; ++i) offsets[i] = static_cast<uint32_t>(i);
  ExpertCall call;
  call.call_id = ++last_id;
  call.layer = layer;
  call.rows = at.in;
  call.ready = at.ready;
  call.row_offsets = offsets;
  call.experts = experts;
  bool done = false;
  absl::Status status;
  call.deadline = absl::Now() + absl::Seconds(5);
  transport.Call(ShardId{0}, call, at.out, [&](const absl::Status& ended) {
    status = ended;
    done = true;
  });
  while (!done) transport.Progress(absl::Seconds(1));
  return status;
}

// Round trips over `transport` in microseconds.
std::vector<double> CallAndWait(Transport& transport, const Matrices& at) {
  std::vector<double> micros;
  for (int i = 0; i < kWarmUps + RoundsOf(at.in.rows * kHidden * 2); ++i) {
    const absl::Time begin = absl::Now();
    CONCLAVE_CHECK_OK(CallOnce(transport, at, LayerId{0}));
    if (i >= kWarmUps) micros.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
  }
  return micros;
}

// From and to the host, in `memory` where that is not null.
std::vector<double> CallFromHost(Transport& transport, int rows, const HostMemory& memory) {
  MatBuffer in(DType::kBF16, rows, kHidden, memory), out(DType::kBF16, rows, kHidden, memory);
  return CallAndWait(transport, Matrices{in.view(), out.view()});
}

// Rows and results in device memory of their own.
class DeviceMatrices {
 public:
  explicit DeviceMatrices(Accelerator& accelerator) : accelerator_(accelerator) {
    auto memory = AllocateDevicePiece(accelerator, 2 * kBytesMax);
    auto ready = accelerator.NewEvent();
    CONCLAVE_CHECK_OK(memory.status());
    CONCLAVE_CHECK_OK(ready.status());
    memory_ = *std::move(memory);
    ready_ = *std::move(ready);
    in_ = memory_.get();
    out_ = static_cast<std::byte*>(in_) + kBytesMax;
    accelerator.Record(*ready_);
  }
  Matrices first(int rows) const { return {View(in_, rows), View(out_, rows), ready_.get()}; }
  // Whether rows of random bits come back as they were, again and again.
  void CheckEcho(Transport& transport, int rows) {
    const int64_t bytes = int64_t{rows} * kHidden * 2;
    std::vector<uint32_t> sent(bytes / 4), came(bytes / 4);
    for (int i = 0; i < kWarmUps; ++i) {
      for (uint32_t& word : sent) word = static_cast<uint32_t>(random_());
      accelerator_.CopyIn(in_, sent.data(), bytes);
      CONCLAVE_CHECK_OK(accelerator_.Synchronize());
      CONCLAVE_CHECK_OK(CallOnce(transport, first(rows), kEchoLayer));
      accelerator_.CopyOut(came.data(), out_, bytes);
      CONCLAVE_CHECK_OK(accelerator_.Synchronize());
      CONCLAVE_CHECK(came == sent) << "rows came back as others";
    }
  }

 private:
  static MatView View(void* memory, int rows) {
    return MatView{memory, DType::kBF16, Device::kCuda, rows, kHidden, kHidden};
  }
  Accelerator& accelerator_;
  std::shared_ptr<void> memory_;
  std::unique_ptr<DeviceEvent> ready_;
  void *in_ = nullptr, *out_ = nullptr;  // in memory_
  std::mt19937_64 random_{std::random_device{}()};
};

void Print(const std::string& name, std::vector<double> micros) {
  std::sort(micros.begin(), micros.end());
  std::printf(" | %s %.1f (p99 %.0f)", name.c_str(), micros[micros.size() / 2], micros[micros.size() * 99 / 100]);
}

// Kills `shard` in the midst of calls of which the last one's end is told.
void KillAndTell(Transport& transport, const Matrices& at, pid_t shard) {
  const absl::Time begin = absl::Now();
  absl::Time last;
  absl::Status status;
  for (bool killed = false; status.ok();) {
    last = absl::Now();
    if (!killed && last - begin > absl::Milliseconds(100)) {
      killed = true;
      const pid_t killer = fork();  // so that it strikes while a call is under way
      if (killer == 0) {
        usleep(3000);
        kill(shard, SIGKILL);
        _exit(0);
      }
    }
    status = CallOnce(transport, at, LayerId{0});
  }
  std::printf("shard killed: the call under way ended after %.1f ms: %s\n",
              absl::ToDoubleMilliseconds(absl::Now() - last), status.ToString().c_str());
}

void Run(const std::string& device, bool with_nccl, bool checksums, pid_t shard, int pipe) {
  std::string text;
  char buffer[512];
  for (ssize_t got = 0; (got = read(pipe, buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(got));
  NcclId id;
  CONCLAVE_CHECK(text.size() > sizeof(id.bytes)) << "the shard did not start";
  std::memcpy(id.bytes, text.data(), sizeof(id.bytes));
  const size_t line = text.find('\n', sizeof(id.bytes));
  const std::string on_device_address = text.substr(sizeof(id.bytes), line - sizeof(id.bytes));
  const std::string address = text.substr(line + 1, text.size() - line - 2);
  const auto accelerator = MustOpen(device);
  std::unique_ptr<NcclPair> pair;
  std::vector<std::vector<double>> own;
  if (with_nccl) {
    const auto api = LoadNccl();
    CONCLAVE_CHECK_OK(api.status());
    pair = MustJoin(**api, *accelerator, id, NcclPair::Rank::kRouter);
    for (const int rows : kRows) own.push_back(MoveThereAndBack(*pair, int64_t{rows} * kHidden * 2, true));
  }
  const auto dial = [&](TransportKind kind, const std::string& to) {
    DialOptions options;
    options.kind = kind;
    options.accelerator = accelerator.get();
    options.checksum = checksums;
    auto transport = DialShards({to}, options);
    CONCLAVE_CHECK_OK(transport.status());
    return *std::move(transport);
  };
  const auto nccl = with_nccl ? dial(TransportKind::kNccl, on_device_address) : nullptr;
  const auto ucx_device = dial(TransportKind::kUcx, on_device_address);
  const auto ucx = dial(TransportKind::kUcx, address);
  const auto grpc = dial(TransportKind::kGrpc, address);
  const HostMemory pinned = PinnedMemory(*accelerator);
  DeviceMatrices on_device(*accelerator);
  const bool device_rows = ucx_device->rows_device() == Device::kCuda;
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const int rows = kRows[i];
    std::printf("%8lld bytes, µs", static_cast<long long>(rows) * kHidden * 2);
    if (with_nccl) {
      Print("NCCL's own", own[i]);
      Print("nccl", CallAndWait(*nccl, on_device.first(rows)));
      Print("nccl, pinned", CallFromHost(*nccl, rows, pinned));
      Print("nccl, unpinned", CallFromHost(*nccl, rows, nullptr));
    }
    if (device_rows) {
      on_device.CheckEcho(*ucx_device, rows);
      Print("ucx, device to device", CallAndWait(*ucx_device, on_device.first(rows)));
      Print("ucx, staged on both sides", CallAndWait(*ucx, on_device.first(rows)));
    }
    Print("ucx, staged", CallFromHost(*ucx, rows, pinned));
    Print("grpc, staged", CallFromHost(*grpc, rows, pinned));
    std::printf("\n");
    std::fflush(stdout);
  }
  if (device_rows) KillAndTell(*ucx_device, on_device.first(kRows[2]), shard);
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  std::string router = "cuda:0", shard = "cuda:0";
  bool with_nccl = true, checksums = false;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--router") router = argv[i + 1];
    if (std::string(argv[i]) == "--shard") shard = argv[i + 1];
    if (std::string(argv[i]) == "--nccl") with_nccl = std::string(argv[i + 1]) != "no";
    if (std::string(argv[i]) == "--checksums") checksums = std::string(argv[i + 1]) == "yes";
  }
  int ends[2];
  if (pipe(ends) != 0) return 1;
  const pid_t child = fork();  // before either has threads or a device
  if (child == 0) {
    close(ends[0]);
    conclave::Serve(shard, with_nccl, ends[1]);
  }
  close(ends[1]);
  conclave::Run(router, with_nccl, checksums, child, ends[0]);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return 0;
}
