#include "router_service/elastic_experts.h"

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/kernels/kernels.h"
#include "moe/model/numeric_profile.h"
#include "moe/placement/placement.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/inproc/inproc_transport.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kHidden = 8, kExperts = 16, kShares = 2;
using List = std::vector<std::string>;

// A list that a test changes.
class FakePeers final : public PeerList {
 public:
  List Addresses() const override {
    absl::MutexLock lock(&mutex_);
    return addresses_;
  }
  bool changes() const override { return true; }
  void Set(std::vector<std::string> addresses) {
    absl::MutexLock lock(&mutex_);
    addresses_ = std::move(addresses);
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> addresses_ ABSL_GUARDED_BY(mutex_);
};

// Fake shards "0", "1", … by address, which hold what ExpertsOfShard says.
class ElasticExpertsTest : public testing::Test {
 protected:
  ElasticExpertsTest() {
    spec_.hidden = kHidden;
    spec_.layers = 1;
    spec_.dense_layers_first = 0;
    spec_.gate.experts = kExperts;
    spec_.gate.top_k = kExperts;
    for (int i = 0; i < 4; ++i) {
      ShardDescription shard;
      shard.name = absl::StrCat("expert-", i);
      shard.model_fingerprint = "model";
      shard.numeric_profile = NumericProfile(kernels_);
      shard.placement_epoch = 1;
      shard.hidden = kHidden;
      shard.row_dtype = DType::kF32;
      shard.holdings.push_back({LayerId{0}, ExpertsOfShard(kExperts, i, kShares)});
      descriptions_[std::to_string(i)] = shard;
      handlers_[std::to_string(i)] = std::make_unique<FakeExpertHandler>(shard);
    }
    for (int row = 0; row < 2; ++row) {
      for (int expert = 0; expert < kExperts; ++expert) experts_.push_back(expert);
    }
    for (int i = 0; i < 2 * kHidden; ++i) x_.view().Row<float>(0)[i] = static_cast<float>(i % 7);
  }

  absl::StatusOr<std::unique_ptr<ShardSet>> Connect(const List& addresses) {
    ++connects_;
    auto set = std::make_unique<ShardSet>();
    set->addresses = addresses;
    std::vector<ExpertHandler*> handlers;
    std::vector<ShardDescription> shards;
    for (const std::string& address : addresses) {
      if (handlers_.count(address) == 0) return absl::UnavailableError(absl::StrCat("no shard at ", address));
      handlers.push_back(handlers_[address].get());
      shards.push_back(descriptions_[address]);
    }
    set->transport = std::make_unique<InprocTransport>(handlers);
    RemoteExpertsOptions options;
    options.model_fingerprint = "model";
    options.metrics = metrics_.get();
    auto experts = RemoteExperts::Create(spec_, kernels_, *set->transport, shards, options);
    if (!experts.ok()) return experts.status();
    set->experts = *std::move(experts);
    return set;
  }

  void Start() {
    auto pool = ElasticExperts::Create(
        peers_, [this](const List& addresses, const std::function<bool()>&) { return Connect(addresses); },
        absl::Now() + absl::Seconds(20), metrics_.get());
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }

  Routing AllExperts() const {
    Routing routing;
    routing.top_k = kExperts;
    routing.experts = experts_;
    return routing;
  }
  absl::StatusOr<ExpertTicket> Begin() { return pool_->Start(LayerId{0}, x_.view(), AllExperts()); }
  // INTERNAL where the rows are not those of the experts.
  absl::Status End(ExpertTicket ticket) {
    MatBuffer out(DType::kF32, static_cast<int64_t>(experts_.size()), kHidden);
    const absl::Status status = pool_->Finish(ticket, out.view());
    for (size_t p = 0; status.ok() && p < experts_.size(); ++p) {
      for (int c = 0; c < kHidden; ++c) {
        const float x = x_.view().Row<float>(static_cast<int64_t>(p) / kExperts)[c];
        if (out.view().Row<float>(static_cast<int64_t>(p))[c] == FakeExpertValue(x, LayerId{0}, experts_[p])) continue;
        return absl::InternalError("wrong rows");
      }
    }
    return status;
  }
  absl::Status RunOnce() {
    const auto ticket = Begin();
    return ticket.ok() ? End(*ticket) : ticket.status();
  }
  // With `busy`, layers run meanwhile.
  bool Uses(const List& addresses, bool busy) {
    for (int i = 0; i < 4000 && pool_->current()->addresses != addresses; ++i) {
      if (busy) {
        EXPECT_EQ(RunOnce(), absl::OkStatus());
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    return pool_->current()->addresses == addresses;
  }
  uint64_t RowsOf(const std::string& name) const {
    for (const ShardFigures& figures : pool_->current()->experts->shard_figures()) {
      if (figures.name == name) return figures.rows;
    }
    return 0;
  }

  ModelSpec spec_;
  const Kernels& kernels_ = ReferenceKernels(Compute::kF32);
  const std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  std::map<std::string, ShardDescription> descriptions_;
  std::map<std::string, std::unique_ptr<FakeExpertHandler>> handlers_;
  std::atomic<int> connects_{0};
  FakePeers peers_;
  MatBuffer x_{DType::kF32, 2, kHidden};
  std::vector<int32_t> experts_;
  std::unique_ptr<ElasticExperts> pool_;
};

TEST_F(ElasticExpertsTest, FurtherShardsShareTheWorkAndGoAgainWhileLayersRun) {
  peers_.Set({"0", "1"});
  Start();
  ASSERT_EQ(RunOnce(), absl::OkStatus());
  peers_.Set({"0", "1", "2", "3"});
  ASSERT_TRUE(Uses({"0", "1", "2", "3"}, /*busy=*/true));
  ASSERT_EQ(RunOnce(), absl::OkStatus());
  EXPECT_GT(RowsOf("expert-2"), 0u);
  EXPECT_GT(RowsOf("expert-3"), 0u);
  EXPECT_THAT(metrics_->Text(), HasSubstr("conclave_router_shard_up{shard=\"expert-3\"} 1"));
  peers_.Set({"0", "1"});
  ASSERT_TRUE(Uses({"0", "1"}, /*busy=*/true));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
  for (int i = 0; i < 4000 && metrics_->Text().find("_up{shard=\"expert-3\"}") != std::string::npos; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_THAT(metrics_->Text(), Not(HasSubstr("conclave_router_shard_up{shard=\"expert-3\"}")));
  EXPECT_THAT(metrics_->Text(), HasSubstr("conclave_router_shard_up{shard=\"expert-1\"} 1"));
}

TEST_F(ElasticExpertsTest, AnIdlePoolFollowsTheListToo) {
  peers_.Set({"0", "1"});
  Start();
  peers_.Set({"1", "0", "2"});
  EXPECT_TRUE(Uses({"1", "0", "2"}, /*busy=*/false));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
}

TEST_F(ElasticExpertsTest, ATicketEndsWhereItBegan) {
  peers_.Set({"0", "1"});
  Start();
  const auto ticket = Begin();
  ASSERT_TRUE(ticket.ok());
  peers_.Set({"0", "1", "2"});
  while (connects_ < 2) absl::SleepFor(absl::Milliseconds(5));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(pool_->current()->addresses.size(), 2u);
  EXPECT_EQ(End(*ticket), absl::OkStatus());
  EXPECT_TRUE(Uses({"0", "1", "2"}, /*busy=*/false));
}

TEST_F(ElasticExpertsTest, ALayerWhoseShardsAreGoneBeginsAgainOnTheNextOnes) {
  for (const int layers : {1, 2}) {
    for (const char* gone : {"0", "1"}) handlers_[gone]->FailWith(absl::ResourceExhaustedError("no room"));
    peers_.Set({"0", "1"});
    Start();
    std::vector<ExpertTicket> tickets;
    for (int i = 0; i < layers; ++i) {
      const auto ticket = Begin();
      ASSERT_TRUE(ticket.ok());
      tickets.push_back(*ticket);
    }
    peers_.Set({"2", "3"});
    const absl::Time begin = absl::Now();
    for (const ExpertTicket& ticket : tickets) EXPECT_EQ(End(ticket), absl::OkStatus());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(50)) << "it must not wait for its time to run out";
    EXPECT_EQ(pool_->current()->addresses, (List{"2", "3"}));
    EXPECT_EQ(RunOnce(), absl::OkStatus());
    pool_ = nullptr;
  }
}

TEST_F(ElasticExpertsTest, AStepThatIsAbandonedDoesNotBeginAgain) {
  for (const char* gone : {"0", "1"}) handlers_[gone]->FailWith(absl::ResourceExhaustedError("no room"));
  peers_.Set({"0", "1"});
  Start();
  pool_->AskWhileStalled([] { return true; });
  const auto ticket = Begin();
  ASSERT_TRUE(ticket.ok());
  peers_.Set({"2", "3"});
  while (connects_ < 2) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(End(*ticket).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Uses({"2", "3"}, /*busy=*/false));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
}

TEST_F(ElasticExpertsTest, AListThatCannotBeUsedLeavesTheOldOneInPlace) {
  peers_.Set({"0", "1"});
  Start();
  peers_.Set({"0", "9"});
  while (connects_ < 2) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
  peers_.Set({});
  absl::SleepFor(absl::Milliseconds(250));
  EXPECT_EQ(RunOnce(), absl::OkStatus());
  EXPECT_EQ(pool_->current()->addresses, (List{"0", "1"}));
  peers_.Set({"0", "1", "3"});
  EXPECT_TRUE(Uses({"0", "1", "3"}, /*busy=*/true));
}

TEST_F(ElasticExpertsTest, NobodyListedInTimeIsAnError) {
  const auto pool = ElasticExperts::Create(
      peers_, [this](const List& addresses, const std::function<bool()>&) { return Connect(addresses); },
      absl::Now(), metrics_.get());
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace conclave
