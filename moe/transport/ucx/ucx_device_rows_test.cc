// Rows and results that lie on devices, without a device: host memory that is treated as one. The promises of every
// transport hold there too, for shards that take such rows and for those that do not.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/device_event.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/copy_rows.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/transport_test_suite.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {
namespace {

// What a shard can do.
enum class Shard { kOnDevice, kWithoutCuda, kOnCpu };

std::shared_ptr<void> Allocate(int64_t bytes) {
  return std::shared_ptr<void>(std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256)), &std::free);
}

// Takes calls of which both rows and results lie on the "device", where the shard is to take them so, to a handler that
// knows no devices.
class OnDevice final : public ExpertHandler {
 public:
  OnDevice(ExpertHandler& handler, Shard shard) : handler_(handler), shard_(shard) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  bool TakesDeviceRows() const override { return shard_ != Shard::kOnCpu; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    const Device expected = shard_ == Shard::kOnDevice && call.rows.rows > 0 ? Device::kCuda : Device::kCpu;
    EXPECT_EQ(static_cast<int>(call.rows.device), static_cast<int>(expected));
    EXPECT_EQ(static_cast<int>(out.device), static_cast<int>(expected));
    ExpertCall plain = call;
    plain.rows.device = out.device = Device::kCpu;
    return handler_.Run(plain, out);
  }

 private:
  ExpertHandler& handler_;
  const Shard shard_;
};

// Calls as a router on a device makes them: rows and results without gaps, in memory of their own. Memory of calls that
// have ended is kept to the end, when it must be as it was.
class FromDevice final : public Transport {
 public:
  explicit FromDevice(std::unique_ptr<UcxTransport> transport) : transport_(std::move(transport)) {
    EXPECT_EQ(static_cast<int>(transport_->rows_device()), static_cast<int>(Device::kCuda));
  }
  ~FromDevice() override {
    transport_.reset();
    for (const Ended& ended : ended_) {
      const auto* const bytes = static_cast<const std::byte*>(ended.out.get());
      EXPECT_TRUE(std::equal(ended.bytes.begin(), ended.bytes.end(), bytes)) << "touched after its Done";
    }
  }
  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    const auto on_device = [](const ConstMatView& view, const std::shared_ptr<void>& memory) {
      return MatView{memory.get(), view.dtype, Device::kCuda, view.rows, view.cols, view.cols};
    };
    const int64_t out_bytes = out.rows * out.cols * SizeOf(out.dtype);
    const auto rows = Allocate(call.rows.rows * call.rows.cols * SizeOf(call.rows.dtype) + 1);
    const auto results = Allocate(out_bytes + 1);
    ExpertCall moved = call;
    moved.rows = on_device(call.rows, rows);
    const MatView device_out = on_device(out, results);
    CopyRows(call.rows, HostView(on_device(call.rows, rows)));
    transport_->Call(shard, moved, device_out,
                     [this, rows, results, out, out_bytes, device_out, done](const absl::Status& status) {
                       const auto* const bytes = static_cast<const std::byte*>(results.get());
                       ended_.push_back({results, std::vector<std::byte>(bytes, bytes + out_bytes)});
                       if (status.ok()) CopyRows(HostView(device_out), out);
                       done(status);
                     });
  }
  void Cancel(uint64_t call_id) override { transport_->Cancel(call_id); }
  int Progress(absl::Duration wait) override { return transport_->Progress(wait); }
  int shards() const override { return transport_->shards(); }
  const char* Way(ShardId shard) const override { return transport_->Way(shard); }
  UcxTransport& transport() { return *transport_; }

 private:
  struct Ended {
    std::shared_ptr<void> out;
    std::vector<std::byte> bytes;  // what it held when its call ended
  };
  static MatView HostView(MatView view) {
    view.device = Device::kCpu;
    return view;
  }
  std::unique_ptr<UcxTransport> transport_;
  std::vector<Ended> ended_;
};

class DeviceHarness final : public TransportHarness {
 public:
  DeviceHarness(const std::vector<ExpertHandler*>& handlers, Shard shard, UcxLinks links, bool checksum)
      : shard_(shard), links_(links), shards_(std::make_shared<std::vector<DataPlane*>>()) {
    for (ExpertHandler* handler : handlers) {
      handlers_.push_back(std::make_unique<OnDevice>(*handler, shard));
      servers_.push_back(Start(*handlers_.back()));
      shards_->push_back(servers_.back().get());
    }
    UcxTransportOptions options;
    options.checksum = checksum;
    options.worker.links = links;
    options.worker.device_memory = UcxDeviceMemory::kPretend;
    options.new_stream = [this] { return device_->NewStream(); };
    auto transport =
        NewUcxTransport(static_cast<int>(shards_->size()), std::make_unique<DirectControl>(shards_), options);
    EXPECT_TRUE(transport.ok()) << transport.status();
    transport_ = std::make_unique<FromDevice>(*std::move(transport));
  }
  Transport& transport() override { return *transport_; }
  UcxTransport& ucx() { return transport_->transport(); }
  void Kill(ShardId shard) override {
    (*shards_)[Value(shard)] = nullptr;
    servers_[Value(shard)].reset();
  }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = Start(*handlers_[Value(shard)]);
    (*shards_)[Value(shard)] = servers_[Value(shard)].get();
  }

 private:
  std::unique_ptr<UcxExpertServer> Start(ExpertHandler& handler) const {
    UcxExpertServerOptions options;
    options.worker.links = links_;
    if (shard_ == Shard::kOnDevice) options.worker.device_memory = UcxDeviceMemory::kPretend;
    options.device_memory = &Allocate;
    auto server = UcxExpertServer::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    (*server)->SetHandler(&handler);
    return *std::move(server);
  }

  const Shard shard_;
  const UcxLinks links_;
  const std::unique_ptr<HostAccelerator> device_ = HostAccelerator::Create();
  std::vector<std::unique_ptr<OnDevice>> handlers_;
  DirectShards shards_;
  std::vector<std::unique_ptr<UcxExpertServer>> servers_;
  std::unique_ptr<FromDevice> transport_;
};

HarnessFactory Factory(Shard shard, UcxLinks links, bool checksum) {
  return [=](const std::vector<ExpertHandler*>& handlers) {
    return std::make_unique<DeviceHarness>(handlers, shard, links, checksum);
  };
}

INSTANTIATE_TEST_SUITE_P(UcxDevice, TransportTest, testing::Values(Factory(Shard::kOnDevice, UcxLinks::kAuto, false)));
INSTANTIATE_TEST_SUITE_P(UcxDeviceTcp, TransportTest,
                         testing::Values(Factory(Shard::kOnDevice, UcxLinks::kTcp, false)));
INSTANTIATE_TEST_SUITE_P(UcxDeviceChecksums, TransportTest,
                         testing::Values(Factory(Shard::kOnDevice, UcxLinks::kAuto, true)));
INSTANTIATE_TEST_SUITE_P(UcxStaged, TransportTest,
                         testing::Values(Factory(Shard::kWithoutCuda, UcxLinks::kAuto, false)));
INSTANTIATE_TEST_SUITE_P(UcxStagedChecksums, TransportTest,
                         testing::Values(Factory(Shard::kWithoutCuda, UcxLinks::kAuto, true)));

// How a shard's rows travel, as the log has it.
std::string WiresTo(Shard shard) {
  FakeExpertHandler handler("one", /*hidden=*/0, /*experts=*/8);
  DeviceHarness harness({&handler}, shard, UcxLinks::kAuto, false);
  TestCall call(1, DType::kBF16, 20, 256, {{0, 3}, {7}});
  call.Send(harness.transport(), ShardId{0});
  while (!call.done()) harness.transport().Progress(absl::Seconds(1));
  EXPECT_TRUE(call.status().ok()) << call.status();
  EXPECT_TRUE(call.OutIsRight());
  return harness.ucx().Wires(ShardId{0});
}

TEST(UcxDeviceRows, TheChoiceIsMadeAtTheHandshakeAndTold) {
  EXPECT_EQ(WiresTo(Shard::kOnDevice), "shared memory, device memory");
  EXPECT_EQ(WiresTo(Shard::kWithoutCuda),
            "shared memory, staged through pinned memory, since the shard's UCX was built without CUDA");
  EXPECT_EQ(WiresTo(Shard::kOnCpu), "shared memory, staged through pinned memory, since the shard computes on a CPU");
}

// An event that comes about when a test says so.
class SetByTest final : public DeviceEvent {
 public:
  void* native() const override { return nullptr; }
  absl::StatusOr<bool> Done() const override { return answer; }
  absl::Status Wait() const override { return absl::UnimplementedError("nobody is to wait"); }
  absl::StatusOr<bool> answer = false;
};

class UcxIncompleteRows : public testing::TestWithParam<Shard> {};

TEST_P(UcxIncompleteRows, AreNotSentBeforeTheirEvent) {
  FakeExpertHandler handler("one", /*hidden=*/0, /*experts=*/8);
  DeviceHarness harness({&handler}, GetParam(), UcxLinks::kAuto, false);
  SetByTest event;
  TestCall call(1, DType::kBF16, 20, 256, {{0, 3}, {7}});
  call.call().ready = &event;
  call.Send(harness.transport(), ShardId{0});
  for (int i = 0; i < 20; ++i) harness.transport().Progress(absl::Milliseconds(5));
  EXPECT_FALSE(call.done());
  EXPECT_EQ(handler.runs(), 0);
  event.answer = true;
  while (!call.done()) harness.transport().Progress(absl::Seconds(1));
  EXPECT_TRUE(call.status().ok()) << call.status();
  EXPECT_TRUE(call.OutIsRight());
}

TEST_P(UcxIncompleteRows, OfALostDeviceEndTheCall) {
  FakeExpertHandler handler("one", /*hidden=*/0, /*experts=*/8);
  DeviceHarness harness({&handler}, GetParam(), UcxLinks::kAuto, false);
  SetByTest event;
  TestCall call(1, DType::kBF16, 20, 256, {{0, 3}, {7}});
  call.call().ready = &event;
  call.Send(harness.transport(), ShardId{0});
  harness.transport().Progress(absl::Milliseconds(5));
  event.answer = absl::UnavailableError("the device is lost");
  while (!call.done()) harness.transport().Progress(absl::Seconds(1));
  EXPECT_TRUE(absl::IsUnavailable(call.status())) << call.status();
  EXPECT_EQ(handler.runs(), 0);
}

INSTANTIATE_TEST_SUITE_P(BothWays, UcxIncompleteRows, testing::Values(Shard::kOnDevice, Shard::kWithoutCuda));

}  // namespace
}  // namespace conclave
