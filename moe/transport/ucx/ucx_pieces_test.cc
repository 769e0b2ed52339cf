// Results that come to a shard's memory bit by bit, and are sent as they come.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/data_plane.h"
#include "moe/transport/data_plane/direct_control.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/transport_test_suite.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {
namespace {

// Brings another handler's results to where they are wanted in pieces of so many bytes, which it tells of one by one;
// what has not come yet is nonsense.
class InPieces final : public ExpertHandler {
 public:
  InPieces(ExpertHandler& handler, int64_t piece_bytes) : handler_(handler), piece_bytes_(piece_bytes) {}
  ShardDescription Describe() const override { return handler_.Describe(); }
  absl::Status Run(const ExpertCall& call, MatView out) override {
    ++runs_whole;
    return handler_.Run(call, out);
  }
  absl::Status RunInPieces(const ExpertCall& call, MatView out, const std::function<void(int64_t)>& landed) override {
    MatBuffer results(out.dtype, out.rows, out.cols);
    if (absl::Status status = handler_.Run(call, results.view()); !status.ok()) return status;
    const int64_t bytes = out.rows * out.cols * SizeOf(out.dtype);
    auto* const to = static_cast<std::byte*>(out.data);
    std::memset(to, 0xab, static_cast<size_t>(bytes));
    for (int64_t begin = 0; begin < bytes; begin += piece_bytes_) {
      if (begin > 0) landed(begin);
      if (begin > 0 && between) between();
      if (begin > 0 && fails.exchange(false)) return absl::InternalError("the device failed");
      const auto* const from = static_cast<const std::byte*>(results.view().data) + begin;
      std::memcpy(to + begin, from, static_cast<size_t>(std::min(piece_bytes_, bytes - begin)));
    }
    return absl::OkStatus();
  }
  std::function<void()> between;  // behind every piece; may be empty
  std::atomic<bool> fails{false};  // the next one behind its first piece
  std::atomic<int> runs_whole{0};

 private:
  ExpertHandler& handler_;
  const int64_t piece_bytes_;
};

std::unique_ptr<UcxExpertServer> MustStart(ExpertHandler& handler, UcxLinks links) {
  UcxExpertServerOptions options;
  options.worker.links = links;
  auto server = UcxExpertServer::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  (*server)->SetHandler(&handler);
  return *std::move(server);
}

std::unique_ptr<UcxTransport> MustConnect(DirectShards shards, UcxLinks links, bool checksum,
                                          uint32_t version_max = kWireVersion) {
  UcxTransportOptions options;
  options.checksum = checksum;
  options.worker.links = links;
  const int count = static_cast<int>(shards->size());
  auto transport = NewUcxTransport(count, std::make_unique<DirectControl>(std::move(shards), version_max), options);
  EXPECT_TRUE(transport.ok()) << transport.status();
  return *std::move(transport);
}

class PiecesHarness final : public TransportHarness {
 public:
  PiecesHarness(const std::vector<ExpertHandler*>& handlers, bool checksum)
      : shards_(std::make_shared<std::vector<DataPlane*>>()) {
    for (ExpertHandler* handler : handlers) {
      handlers_.push_back(std::make_unique<InPieces>(*handler, 100));
      servers_.push_back(MustStart(*handlers_.back(), UcxLinks::kAuto));
      shards_->push_back(servers_.back().get());
    }
    transport_ = MustConnect(shards_, UcxLinks::kAuto, checksum);
  }
  Transport& transport() override { return *transport_; }
  void Kill(ShardId shard) override {
    (*shards_)[Value(shard)] = nullptr;
    servers_[Value(shard)].reset();
  }
  void Revive(ShardId shard) override {
    servers_[Value(shard)] = MustStart(*handlers_[Value(shard)], UcxLinks::kAuto);
    (*shards_)[Value(shard)] = servers_[Value(shard)].get();
  }

 private:
  std::vector<std::unique_ptr<InPieces>> handlers_;
  DirectShards shards_;
  std::vector<std::unique_ptr<UcxExpertServer>> servers_;
  std::unique_ptr<UcxTransport> transport_;
};

HarnessFactory Factory(bool checksum) {
  return [=](const std::vector<ExpertHandler*>& handlers) {
    return std::make_unique<PiecesHarness>(handlers, checksum);
  };
}

INSTANTIATE_TEST_SUITE_P(UcxPieces, TransportTest, testing::Values(Factory(false)));
INSTANTIATE_TEST_SUITE_P(UcxPiecesChecksums, TransportTest, testing::Values(Factory(true)));

// A shard whose results come in pieces of `piece_bytes`.
struct Shard {
  explicit Shard(int64_t piece_bytes, UcxLinks with_links = UcxLinks::kAuto)
      : links(with_links), handler(fake, piece_bytes), server(MustStart(handler, links)) {}
  std::unique_ptr<UcxTransport> Connect(bool checksum, uint32_t version_max = kWireVersion) const {
    return MustConnect(std::make_shared<std::vector<DataPlane*>>(1, server.get()), links, checksum, version_max);
  }
  const UcxLinks links;
  FakeExpertHandler fake{"one", /*hidden=*/0, /*experts=*/8};
  InPieces handler;
  std::unique_ptr<UcxExpertServer> server;
};

// Half a megabyte of results.
std::unique_ptr<TestCall> LargeCall(uint64_t id) {
  const std::vector<std::vector<int32_t>> experts(128, {1, 5});
  return std::make_unique<TestCall>(id, DType::kBF16, 128, 1024, experts);
}

void Await(Transport& transport, const TestCall& call) {
  while (!call.done()) transport.Progress(absl::Seconds(1));
}

TEST(UcxPieces, OfAnySizeMakeTheResultsOfSeveralCallsAtOnce) {
  for (const UcxLinks links : {UcxLinks::kAuto, UcxLinks::kTcp}) {
    for (const int64_t piece_bytes : {4000, 16384, 100000, 500000, 1 << 30}) {
      const Shard shard(piece_bytes, links);
      for (const bool checksum : {false, true}) {
        const auto transport = shard.Connect(checksum);
        std::vector<std::unique_ptr<TestCall>> calls;
        for (uint64_t id = 1; id <= 3; ++id) {
          calls.push_back(LargeCall(id));
          calls.back()->Send(*transport, ShardId{0});
        }
        for (const auto& call : calls) {
          Await(*transport, *call);
          EXPECT_TRUE(call->status().ok()) << call->status();
          EXPECT_TRUE(call->OutIsRight()) << piece_bytes;
        }
      }
      EXPECT_EQ(shard.handler.runs_whole, 0);
    }
  }
}

// Its checksum stands in front, so that nothing can be sent before all of it is there.
TEST(UcxPieces, AreNotSentToARouterOfTheVersionBeforeThatWantsChecksums) {
  const Shard shard(16384);
  for (const bool checksum : {true, false}) {
    const auto transport = shard.Connect(checksum, kWireVersion - 1);
    const auto call = LargeCall(1);
    call->Send(*transport, ShardId{0});
    Await(*transport, *call);
    EXPECT_TRUE(call->status().ok()) << call->status();
    EXPECT_TRUE(call->OutIsRight());
    EXPECT_EQ(shard.handler.runs_whole, 1) << "the call with checksums alone";
  }
}

TEST(UcxPieces, ACallThatFailsBetweenThemEndsWithItsConnection) {
  Shard shard(16384);
  const auto transport = shard.Connect(true);
  auto call = LargeCall(1);
  shard.handler.fails = true;
  call->Send(*transport, ShardId{0});
  Await(*transport, *call);
  EXPECT_TRUE(absl::IsUnavailable(call->status())) << call->status();
  for (uint64_t id = 2; !call->status().ok(); ++id) {  // until the connection is back
    call = LargeCall(id);
    call->Send(*transport, ShardId{0});
    Await(*transport, *call);
    transport->Progress(absl::Milliseconds(5));
  }
  EXPECT_TRUE(call->OutIsRight());
}

TEST(UcxPieces, ACallThatIsTakenBackBetweenThemLeavesTheShardServing) {
  Shard shard(16384);
  absl::Notification between, taken_back;
  shard.handler.between = [&] {
    if (!between.HasBeenNotified()) between.Notify();
    taken_back.WaitForNotification();
  };
  const auto transport = shard.Connect(true);
  const auto call = LargeCall(1);
  call->FillOut();
  call->Send(*transport, ShardId{0});
  while (!between.HasBeenNotified()) transport->Progress(absl::Milliseconds(1));
  transport->Cancel(1);
  Await(*transport, *call);
  EXPECT_TRUE(absl::IsCancelled(call->status())) << call->status();
  taken_back.Notify();
  const auto next = LargeCall(2);
  next->Send(*transport, ShardId{0});
  Await(*transport, *next);
  EXPECT_TRUE(next->status().ok()) << next->status();
  EXPECT_TRUE(next->OutIsRight());
}

TEST(UcxPieces, ARouterThatGoesBetweenThemLeavesTheShardServingOthers) {
  Shard shard(16384);
  absl::Notification between, gone;
  shard.handler.between = [&] {
    if (!between.HasBeenNotified()) between.Notify();
    gone.WaitForNotification();
  };
  const auto other = shard.Connect(true);
  {
    const auto call = LargeCall(1);
    const auto transport = shard.Connect(true);
    call->Send(*transport, ShardId{0});
    while (!between.HasBeenNotified()) transport->Progress(absl::Milliseconds(1));
  }
  gone.Notify();
  const auto call = LargeCall(1);
  call->Send(*other, ShardId{0});
  Await(*other, *call);
  EXPECT_TRUE(call->status().ok()) << call->status();
  EXPECT_TRUE(call->OutIsRight());
}

}  // namespace
}  // namespace conclave
