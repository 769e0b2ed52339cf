#include "moe/transport/ucx/ucx_transport.h"

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
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/transport_test_suite.h"
#include "moe/transport/ucx/ucx_expert_server.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<UcxExpertServer> MustStart(ExpertHandler* handler, UcxLinks links) {
  UcxExpertServerOptions options;
  options.worker.links = links;
  auto server = UcxExpertServer::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  (*server)->SetHandler(handler);
  return *std::move(server);
}

class UcxHarness final : public TransportHarness {
 public:
  UcxHarness(std::vector<ExpertHandler*> handlers, UcxLinks links, bool checksum)
      : handlers_(std::move(handlers)), links_(links), shards_(std::make_shared<std::vector<DataPlane*>>()) {
    for (ExpertHandler* handler : handlers_) {
      servers_.push_back(MustStart(handler, links_));
      shards_->push_back(servers_.back().get());
    }
    UcxTransportOptions options;
    options.checksum = checksum;
    options.worker.links = links;
    auto transport =
        NewUcxTransport(static_cast<int>(shards_->size()), std::make_unique<DirectControl>(shards_), options);
    EXPECT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
  }
  UcxTransport& transport() override { return *transport_; }
  void Kill(ShardId shard) override {
    (*shards_)[Value(shard)] = nullptr;
    servers_[Value(shard)].reset();
  }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = MustStart(handlers_[Value(shard)], links_);
    (*shards_)[Value(shard)] = servers_[Value(shard)].get();
  }

 private:
  std::vector<ExpertHandler*> handlers_;
  const UcxLinks links_;
  DirectShards shards_;
  std::vector<std::unique_ptr<UcxExpertServer>> servers_;
  std::unique_ptr<UcxTransport> transport_;
};

HarnessFactory Factory(UcxLinks links, bool checksum) {
  return [=](std::vector<ExpertHandler*> handlers) {
    return std::make_unique<UcxHarness>(std::move(handlers), links, checksum);
  };
}

INSTANTIATE_TEST_SUITE_P(UcxSharedMemory, TransportTest, testing::Values(Factory(UcxLinks::kAuto, false)));
INSTANTIATE_TEST_SUITE_P(UcxTcp, TransportTest, testing::Values(Factory(UcxLinks::kTcp, false)));
INSTANTIATE_TEST_SUITE_P(UcxChecksums, TransportTest, testing::Values(Factory(UcxLinks::kAuto, true)));

TEST(UcxTransport, APeerOfTheVersionBeforeGetsTheChecksumWithEveryFragment) {
  FakeExpertHandler handler("old", /*hidden=*/0, /*experts=*/8);
  const auto server = MustStart(&handler, UcxLinks::kAuto);
  const auto shards = std::make_shared<std::vector<DataPlane*>>(1, server.get());
  UcxTransportOptions options;
  options.checksum = true;
  auto transport = NewUcxTransport(1, std::make_unique<DirectControl>(shards, kWireVersion - 1), options);
  ASSERT_TRUE(transport.ok()) << transport.status();
  TestCall call(1, DType::kBF16, 200, 256, {{0, 3}, {7}});  // several fragments there and back
  call.Send(**transport, ShardId{0});
  while (!call.done()) (*transport)->Progress(absl::Seconds(1));
  EXPECT_TRUE(call.status().ok()) << call.status();
  EXPECT_TRUE(call.OutIsRight());
}

// Tells whether the rows and results of its calls lay in the memory that Allocate gave.
class WatchesMemory final : public ExpertHandler {
 public:
  ShardDescription Describe() const override { return ShardDescription{}; }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    rows_given = Given(call.rows.data);
    out_given = Given(out.data);
    return absl::OkStatus();
  }
  std::shared_ptr<void> Allocate(int64_t bytes) {
    given_.push_back({std::shared_ptr<void>(std::aligned_alloc(64, static_cast<size_t>(bytes)), &std::free), bytes});
    return given_.back().first;
  }
  bool rows_given = false, out_given = false;

 private:
  bool Given(const void* data) const {
    for (const auto& [memory, bytes] : given_) {
      const auto* const begin = static_cast<const std::byte*>(memory.get());
      if (data >= begin && data < begin + bytes) return true;
    }
    return false;
  }
  std::vector<std::pair<std::shared_ptr<void>, int64_t>> given_;
};

TEST(UcxTransport, RowsArriveAndResultsLieInTheMemoryThatTheServerWasGiven) {
  WatchesMemory handler;
  UcxExpertServerOptions options;
  options.memory = [&](int64_t bytes) { return handler.Allocate(bytes); };
  auto server = UcxExpertServer::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->SetHandler(&handler);
  const auto shards = std::make_shared<std::vector<DataPlane*>>(1, server->get());
  auto transport = NewUcxTransport(1, std::make_unique<DirectControl>(shards), UcxTransportOptions{});
  ASSERT_TRUE(transport.ok()) << transport.status();
  TestCall call(1, DType::kF32, 64, 4096, {{0}});  // a megabyte: more than one fragment
  call.Send(**transport, ShardId{0});
  while (!call.done()) (*transport)->Progress(absl::Seconds(1));
  EXPECT_TRUE(call.status().ok()) << call.status();
  EXPECT_TRUE(handler.rows_given);
  EXPECT_TRUE(handler.out_given);
}

}  // namespace
}  // namespace conclave
