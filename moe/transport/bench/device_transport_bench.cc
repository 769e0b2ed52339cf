// device_transport_bench [--router cuda:N] [--shard cuda:N]: round trips of rows between two processes on GPUs, p50 and
// p99: NCCL's own send and receive, the NCCL transport, and UCX and gRPC with rows staged through the shard's host
// memory. As many bytes there as back; the shard computes nothing. The router's rows and results lie on its
// device, which the NCCL transport copies once there, behind an event; "pinned": in pinned host memory, so that there is a
// copy to the device and one back; "unpinned": in other memory, which the NCCL transport copies once more. UCX and gRPC
// have pinned ones.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/check.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/open_accelerator.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/kernels/accelerator/row_gather.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/dial/dial_shards.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/ucx/ucx_expert_server.h"

namespace conclave {
namespace {

constexpr int kHidden = 7168;  // of BF16: a row is 14 KiB
constexpr int kRows[] = {1, 73, 256};
constexpr int64_t kBytesMax = int64_t{256} * kHidden * 2;
constexpr int kWarmUps = 50, kRounds = 1000;

std::unique_ptr<Accelerator> MustOpen(const std::string& device) {
  auto accelerator = OpenAccelerator(device);
  CONCLAVE_CHECK_OK(accelerator.status());
  return *std::move(accelerator);
}

// Results are whatever lies where they go: on the device for NCCL, through it for the others.
class NoExperts final : public ExpertHandler {
 public:
  NoExperts(Accelerator& accelerator, bool on_device) : accelerator_(accelerator), on_device_(on_device) {
    auto memory = accelerator.Allocate(kBytesMax);
    CONCLAVE_CHECK_OK(memory.status());
    memory_ = *memory;
  }
  ShardDescription Describe() const override {
    ShardDescription description;
    description.name = "none";
    return description;
  }
  bool TakesDeviceRows() const override { return on_device_; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    if (on_device_) return absl::OkStatus();
    accelerator_.CopyIn(memory_, call.rows.data, call.rows.rows * call.rows.cols * 2);
    accelerator_.CopyOut(out.data, memory_, out.rows * out.cols * 2);
    return accelerator_.Synchronize();
  }

 private:
  Accelerator& accelerator_;
  const bool on_device_;
  void* memory_ = nullptr;
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
  for (int i = 0; i < kWarmUps + kRounds; ++i) {
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

// Serves until it is killed. Writes the id of NCCL's own round trips, then the addresses, one a line.
[[noreturn]] void Serve(const std::string& device, int pipe) {
  const auto api = LoadNccl();
  CONCLAVE_CHECK_OK(api.status());
  const auto accelerator = MustOpen(device);
  NcclId id;
  CONCLAVE_CHECK((*api)->get_unique_id(&id) == kNcclSuccess);
  NoExperts on_device(*accelerator, true), staged(*accelerator, false);
  NcclExpertServerOptions nccl_options;
  nccl_options.api = *api;
  nccl_options.new_stream = [&] { return accelerator->NewStream(); };
  nccl_options.gpu = accelerator->info().uuid;
  auto nccl = NcclExpertServer::Start(nccl_options);
  CONCLAVE_CHECK_OK(nccl.status());
  (*nccl)->SetHandler(&on_device);
  UcxExpertServerOptions ucx_options;
  ucx_options.memory = PinnedMemory(*accelerator);
  auto ucx = UcxExpertServer::Start(ucx_options);
  CONCLAVE_CHECK_OK(ucx.status());
  (*ucx)->SetHandler(&staged);
  auto nccl_control = GrpcExpertServer::Start("127.0.0.1:0", on_device, nullptr, nullptr, nccl->get());
  auto control = GrpcExpertServer::Start("127.0.0.1:0", staged, ucx->get());
  CONCLAVE_CHECK_OK(nccl_control.status());
  CONCLAVE_CHECK_OK(control.status());
  std::string text(id.bytes, sizeof(id.bytes));
  absl::StrAppend(&text, (*nccl_control)->address(), "\n", (*control)->address(), "\n");
  CONCLAVE_CHECK(write(pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(pipe);
  const auto pair = MustJoin(**api, *accelerator, id, NcclPair::Rank::kShard);
  for (const int rows : kRows) MoveThereAndBack(*pair, int64_t{rows} * kHidden * 2, false);
  while (true) pause();
}

// Round trips over `transport` between such rows and results, [rows, kHidden] BF16, in microseconds.
std::vector<double> CallAndWait(Transport& transport, ConstMatView in, MatView out, const DeviceEvent* ready) {
  const int rows = static_cast<int>(in.rows);
  std::vector<uint32_t> offsets(rows + 1);
  const std::vector<int32_t> experts(rows, 0);
  for (int i = 0; i <= rows; ++i) offsets[i] = static_cast<uint32_t>(i);
  std::vector<double> micros;
  static uint64_t last_id = 0;
  for (int i = 0; i < kWarmUps + kRounds; ++i) {
    ExpertCall call;
    call.call_id = ++last_id;
    call.rows = in;
    call.ready = ready;
    call.row_offsets = offsets;
    call.experts = experts;
    bool done = false;
    const absl::Time begin = absl::Now();
    call.deadline = begin + absl::Seconds(5);
    transport.Call(ShardId{0}, call, out, [&](const absl::Status& status) {
      CONCLAVE_CHECK_OK(status);
      done = true;
    });
    while (!done) transport.Progress(absl::Seconds(1));
    if (i >= kWarmUps) micros.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
  }
  return micros;
}

// On the host, in `memory` where that is not null.
std::vector<double> CallFromHost(Transport& transport, int rows, const HostMemory& memory) {
  MatBuffer in(DType::kBF16, rows, kHidden, memory), out(DType::kBF16, rows, kHidden, memory);
  return CallAndWait(transport, in.view(), out.view(), nullptr);
}

std::vector<double> CallFromDevice(Transport& transport, int rows, Accelerator& accelerator) {
  const auto memory = AllocateDevicePiece(accelerator, 2 * kBytesMax);
  const auto ready = accelerator.NewEvent();
  CONCLAVE_CHECK_OK(memory.status());
  CONCLAVE_CHECK_OK(ready.status());
  accelerator.Record(**ready);
  const MatView all{memory->get(), DType::kBF16, Device::kCuda, 2 * rows, kHidden, kHidden};
  return CallAndWait(transport, all.Rows(0, rows), all.Rows(rows, rows), ready->get());
}

void Print(const std::string& name, std::vector<double> micros) {
  std::sort(micros.begin(), micros.end());
  std::printf(" | %s %.1f (p99 %.0f)", name.c_str(), micros[micros.size() / 2], micros[micros.size() * 99 / 100]);
}

void Run(const std::string& device, int pipe) {
  std::string text;
  char buffer[512];
  for (ssize_t got = 0; (got = read(pipe, buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(got));
  NcclId id;
  CONCLAVE_CHECK(text.size() > sizeof(id.bytes)) << "the shard did not start";
  std::memcpy(id.bytes, text.data(), sizeof(id.bytes));
  const size_t line = text.find('\n', sizeof(id.bytes));
  const std::string nccl_address = text.substr(sizeof(id.bytes), line - sizeof(id.bytes));
  const std::string address = text.substr(line + 1, text.size() - line - 2);
  const auto api = LoadNccl();
  CONCLAVE_CHECK_OK(api.status());
  const auto accelerator = MustOpen(device);
  const auto pair = MustJoin(**api, *accelerator, id, NcclPair::Rank::kRouter);
  std::vector<std::vector<double>> own;
  for (const int rows : kRows) own.push_back(MoveThereAndBack(*pair, int64_t{rows} * kHidden * 2, true));
  std::vector<std::unique_ptr<Transport>> transports;
  for (const TransportKind kind : {TransportKind::kNccl, TransportKind::kUcx, TransportKind::kGrpc}) {
    DialOptions options;
    options.kind = kind;
    options.accelerator = accelerator.get();
    auto transport = DialShards({kind == TransportKind::kNccl ? nccl_address : address}, options);
    CONCLAVE_CHECK_OK(transport.status());
    transports.push_back(*std::move(transport));
  }
  for (size_t i = 0; i < own.size(); ++i) {
    std::printf("%8lld bytes, µs", static_cast<long long>(kRows[i]) * kHidden * 2);
    Print("NCCL's own", own[i]);
    const HostMemory pinned = PinnedMemory(*accelerator);
    Print("nccl", CallFromDevice(*transports[0], kRows[i], *accelerator));
    Print("nccl, pinned", CallFromHost(*transports[0], kRows[i], pinned));
    Print("nccl, unpinned", CallFromHost(*transports[0], kRows[i], nullptr));
    Print("ucx, staged", CallFromHost(*transports[1], kRows[i], pinned));
    Print("grpc, staged", CallFromHost(*transports[2], kRows[i], pinned));
    std::printf("\n");
  }
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  std::string router = "cuda:0", shard = "cuda:0";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--router") router = argv[i + 1];
    if (std::string(argv[i]) == "--shard") shard = argv[i + 1];
  }
  int ends[2];
  if (pipe(ends) != 0) return 1;
  const pid_t child = fork();  // before either has threads or a device
  if (child == 0) {
    close(ends[0]);
    conclave::Serve(shard, ends[1]);
  }
  close(ends[1]);
  conclave::Run(router, ends[0]);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return 0;
}
