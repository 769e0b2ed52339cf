// Sets of shards whose rows lie on a device: how much of its memory they take while one takes another's place, and what
// becomes of a set that finds too little or that would have them elsewhere.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/daemon/peer_list.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/model/numeric_profile.h"
#include "moe/placement/placement.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "moe/transport/transport.h"
#include "router_service/elastic_experts.h"
#include "router_service/remote_experts.h"
#include "router_service/remote_experts_testing.h"

namespace conclave {
namespace {

using List = std::vector<std::string>;
constexpr int kRowsMax = 6;

// A list that a test changes, or a fixed one.
class ListedPeers final : public PeerList {
 public:
  explicit ListedPeers(List addresses, bool changes = true) : changes_(changes), addresses_(std::move(addresses)) {}
  List Addresses() const override {
    absl::MutexLock lock(&mutex_);
    return addresses_;
  }
  bool changes() const override { return changes_; }
  void Set(List addresses) {
    absl::MutexLock lock(&mutex_);
    addresses_ = std::move(addresses);
  }

 private:
  const bool changes_;
  mutable absl::Mutex mutex_;
  List addresses_ ABSL_GUARDED_BY(mutex_);
};

// Hands calls on, and has the memory that its device has given out noted when it goes.
class Noting final : public Transport {
 public:
  Noting(Transport& inner, const HostAccelerator& device, std::vector<int64_t>& bytes_at_end)
      : to_device_(inner), device_(device), bytes_at_end_(bytes_at_end) {}
  ~Noting() override { bytes_at_end_.push_back(device_.allocated_bytes()); }
  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override {
    to_device_.Call(shard, call, out, std::move(done));
  }
  void Cancel(uint64_t call_id) override { to_device_.Cancel(call_id); }
  int Progress(absl::Duration wait) override { return to_device_.Progress(wait); }
  int shards() const override { return to_device_.shards(); }
  Device rows_device() const override { return to_device_.rows_device(); }

 private:
  OnDeviceTransport to_device_;
  const HostAccelerator& device_;
  std::vector<int64_t>& bytes_at_end_;
};

// Six fake shards "0", "1", … by address, of which each holds all experts.
class ElasticOnDevice : public testing::Test {
 protected:
  void Start(int64_t device_bytes) {
    device_ = HostAccelerator::Create(device_bytes);
    for (int i = 0; i < 6; ++i) {
      ShardDescription shard;
      shard.name = absl::StrCat("expert-", i);
      shard.model_fingerprint = "model";
      shard.numeric_profile = NumericProfile(kernels_);
      shard.placement_epoch = 1;
      shard.hidden = kHidden;
      shard.row_dtype = DType::kF32;
      for (const int layer : {1, 2}) shard.holdings.push_back({LayerId{layer}, ExpertsOfShard(kExperts, 0, 1)});
      handlers_.push_back(std::make_unique<FakeExpertHandler>(shard));
    }
    auto pool = ElasticExperts::Create(
        peers_, [this](const List& addresses, const std::function<bool()>&) { return Connect(addresses); },
        absl::Now() + absl::Seconds(20), nullptr);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    ASSERT_EQ(pool_->row_device(), Device::kCuda);
  }

  absl::StatusOr<std::unique_ptr<ShardSet>> Connect(const List& addresses) {
    ++connects_;
    auto set = std::make_unique<ShardSet>();
    set->addresses = addresses;
    std::vector<ExpertHandler*> handlers;
    std::vector<ShardDescription> shards;
    for (const std::string& address : addresses) {
      handlers.push_back(handlers_[std::stoul(address)].get());
      shards.push_back(handlers.back()->Describe());
    }
    transports_.push_back(std::make_unique<InprocTransport>(handlers));
    set->transport = std::make_unique<Noting>(*transports_.back(), *device_, bytes_at_end_);
    RemoteExpertsOptions options;
    options.model_fingerprint = "model";
    options.rows_max = kRowsMax;
    options.late_min = options.late_max = absl::Seconds(20);
    options.hedge_share = 0;  // what is sent twice takes more memory
    if (!rows_on_host_) options.accelerator = device_.get();
    auto experts = RemoteExperts::Create(Spec(), kernels_, *set->transport, shards, options);
    if (!experts.ok()) return experts.status();
    set->experts = *std::move(experts);
    return set;
  }

  // INTERNAL where the rows are not those of the experts.
  absl::Status RunOnce() {
    const Rows rows(kRowsMax, 1);
    const std::vector<int32_t> fault_layers(kRowsMax, kNoFault);
    Routing routing = rows.routing;
    routing.fault_layers = fault_layers;
    ConstMatView x = rows.x.view();
    x.device = Device::kCuda;
    MatBuffer out(DType::kF32, static_cast<int64_t>(rows.experts.size()), kHidden);
    MatView to = out.view();
    to.device = Device::kCuda;
    const auto ticket = pool_->Start(LayerId{1}, x, routing);
    if (!ticket.ok()) return ticket.status();
    if (const absl::Status status = pool_->Finish(*ticket, to); !status.ok()) return status;
    if (const absl::Status status = device_->Synchronize(); !status.ok()) return status;
    return rows.IsRight(out, LayerId{1}) ? absl::OkStatus() : absl::InternalError("wrong rows");
  }
  // While layers run.
  bool Uses(const List& addresses) {
    for (int i = 0; i < 4000 && pool_->current()->addresses != addresses; ++i) {
      EXPECT_EQ(RunOnce(), absl::OkStatus());
      absl::SleepFor(absl::Milliseconds(5));
    }
    return pool_->current()->addresses == addresses;
  }
  bool Connects(int times) {
    for (int i = 0; i < 4000 && connects_ < times; ++i) {
      EXPECT_EQ(RunOnce(), absl::OkStatus());
      absl::SleepFor(absl::Milliseconds(5));
    }
    return connects_ >= times;
  }
  void TearDown() override {
    pool_.reset();
    transports_.clear();
    EXPECT_EQ(device_->allocated_bytes(), 0);
  }

  const Kernels& kernels_ = ReferenceKernels(Compute::kF32);
  std::unique_ptr<HostAccelerator> device_;
  std::vector<std::unique_ptr<FakeExpertHandler>> handlers_;
  std::vector<std::unique_ptr<InprocTransport>> transports_;
  std::vector<int64_t> bytes_at_end_;  // of the device's memory, of each set's connections; the thread's that ends it
  std::atomic<int> connects_{0};
  std::atomic<bool> rows_on_host_{false};
  ListedPeers peers_{{"0"}};
  std::unique_ptr<ElasticExperts> pool_;
};

TEST_F(ElasticOnDevice, TheNextSetFitsBesideTheOneInUseHoweverManyShardsThereAre) {
  Start(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_));
  ASSERT_EQ(RunOnce(), absl::OkStatus());
  int connects = 1;
  for (const List& next : {List{"0", "1", "2", "3", "4", "5"}, List{"5", "4", "3", "2", "1"}, List{"2"}}) {
    peers_.Set(next);
    EXPECT_TRUE(Uses(next));
    EXPECT_EQ(RunOnce(), absl::OkStatus());
    EXPECT_EQ(connects_.load(), ++connects) << "it was connected at once";
  }
}

TEST_F(ElasticOnDevice, AFixedListIsCountedOnce) {
  const ListedPeers fixed({"0", "1"}, /*changes=*/false);
  EXPECT_EQ(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, fixed),
            RemoteExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, 2));
  Start(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_));
  EXPECT_EQ(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_),
            2 * RemoteExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, 6));
}

// A shard may fetch rows while its connection stands, and freeing them may wait for one that nobody would give up then.
TEST_F(ElasticOnDevice, ConnectionsOfASetGoBeforeTheMemoryOfItsRows) {
  Start(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_));
  const int64_t one = device_->allocated_bytes();
  ASSERT_EQ(RunOnce(), absl::OkStatus());
  peers_.Set({"1"});
  ASSERT_TRUE(Uses({"1"}));
  pool_.reset();
  EXPECT_THAT(bytes_at_end_, testing::ElementsAre(2 * one, one));
}

TEST_F(ElasticOnDevice, ASetThatFindsNoMemoryIsTriedAgainWhileTheOneInUseServesOn) {
  const int64_t bytes = ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_);
  Start(bytes);
  auto others = AllocateDevicePiece(*device_, bytes / 2);
  ASSERT_TRUE(others.ok()) << others.status();
  peers_.Set({"0", "1", "2", "3"});
  ASSERT_TRUE(Connects(3));
  EXPECT_EQ(pool_->current()->addresses, List{"0"});
  EXPECT_EQ(RunOnce(), absl::OkStatus());
  others->reset();
  EXPECT_TRUE(Uses({"0", "1", "2", "3"}));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
}

TEST_F(ElasticOnDevice, ASetWhoseRowsWouldLieOnTheHostIsNotUsed) {
  Start(ElasticExperts::DeviceBytes(Spec(), DType::kF32, kRowsMax, peers_));
  rows_on_host_ = true;
  peers_.Set({"0", "1"});
  ASSERT_TRUE(Connects(3));
  EXPECT_EQ(pool_->current()->addresses, List{"0"});
  EXPECT_EQ(RunOnce(), absl::OkStatus());
  rows_on_host_ = false;
  EXPECT_TRUE(Uses({"0", "1"}));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
}

}  // namespace
}  // namespace conclave
