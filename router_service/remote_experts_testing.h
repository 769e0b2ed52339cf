// What tests of RemoteExperts share: fake shards behind an in-process transport, which may be made faulty.
#ifndef CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_
#define CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/faulty/faulty_transport.h"
#include "moe/transport/inproc/inproc_transport.h"
#include "router_service/remote_experts.h"

namespace conclave {

inline constexpr int kHidden = 8, kExperts = 16, kTopK = 4;

inline ModelSpec Spec() {
  ModelSpec spec;
  spec.hidden = kHidden;
  spec.layers = 3;
  spec.dense_layers_first = 1;
  spec.gate.experts = kExperts;
  spec.gate.top_k = kTopK;
  return spec;
}

// Rows of small whole numbers and a random routing, and what the fake experts make of them.
struct Rows {
  Rows(int rows, uint32_t seed) : x(DType::kF32, rows, kHidden) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < x.view().rows * kHidden; ++i) x.view().Row<float>(0)[i] = static_cast<float>(random() % 8);
    for (int row = 0; row < rows; ++row) {
      std::vector<int32_t> all(kExperts);
      for (int i = 0; i < kExperts; ++i) all[i] = i;
      std::shuffle(all.begin(), all.end(), random);
      std::sort(all.begin(), all.begin() + kTopK);
      experts.insert(experts.end(), all.begin(), all.begin() + kTopK);
    }
    routing.top_k = kTopK;
    routing.experts = experts;
  }
  bool IsRight(const MatBuffer& out, LayerId layer) const {
    for (size_t p = 0; p < experts.size(); ++p) {
      for (int c = 0; c < kHidden; ++c) {
        const float want = FakeExpertValue(x.view().Row<float>(p / kTopK)[c], layer, experts[p]);
        if (LoadAsFloat(out.view().RowBytes(p), out.view().dtype, c) != want) return false;
      }
    }
    return true;
  }
  MatBuffer x;
  std::vector<int32_t> experts;
  Routing routing;
};

// Asks fake shards at once; a shard that is gone does not answer.
class FakeControl final : public ShardControl {
 public:
  explicit FakeControl(const std::vector<std::unique_ptr<FakeExpertHandler>>& shards)
      : shards_(shards), gone_(shards.size()) {}
  void Describe(ShardId shard, absl::Duration) override {
    ++asked_;
    Push(shard, false, shards_[Value(shard)]->Describe());
  }
  void LoadExperts(ShardId shard, const std::vector<LayerHolding>& experts, absl::Duration) override {
    if (gone_[Value(shard)]) return Push(shard, true, absl::UnavailableError("gone"));
    Push(shard, true, full_ ? absl::ResourceExhaustedError("full") : shards_[Value(shard)]->LoadExperts(experts));
  }
  std::optional<ShardNews> Next() override {
    if (news_.empty()) return std::nullopt;
    ShardNews news = news_.front();
    news_.pop_front();
    return news;
  }
  void SetGone(ShardId shard, bool gone) { gone_[Value(shard)] = gone; }
  void SetFull() { full_ = true; }
  int asked() const { return asked_; }

 private:
  void Push(ShardId shard, bool of_load, absl::StatusOr<ShardDescription> description) {
    if (gone_[Value(shard)]) description = absl::UnavailableError("gone");
    news_.push_back({shard, of_load, std::move(description)});
  }
  const std::vector<std::unique_ptr<FakeExpertHandler>>& shards_;
  std::vector<bool> gone_;
  bool full_ = false;
  int asked_ = 0;
  std::deque<ShardNews> news_;
};

class RemoteExpertsTest : public testing::Test {
 protected:
  // `copies` holders for each expert: shard i also holds what shards i + 1 … hold.
  void Start(int shards, int copies = 1, Compute compute = Compute::kF32) {
    const Kernels& kernels = ReferenceKernels(compute);
    std::vector<ExpertHandler*> pointers;
    for (int i = 0; i < shards; ++i) {
      ShardDescription description;
      description.name = absl::StrCat("expert-", i);
      description.model_fingerprint = "model";
      description.numeric_profile = NumericProfile(kernels);
      description.placement_epoch = 5;
      description.hidden = kHidden;
      description.row_dtype = RowDType(compute);
      for (const int layer : {1, 2}) {
        std::vector<ExpertId> held;
        for (int copy = 0; copy < copies; ++copy) {
          for (const ExpertId expert : ExpertsOfShard(kExperts, (i + copy) % shards, shards)) held.push_back(expert);
        }
        std::sort(held.begin(), held.end());
        description.holdings.push_back({LayerId{layer}, held});
      }
      descriptions_.push_back(description);
      handlers_.push_back(std::make_unique<FakeExpertHandler>(description));
      handlers_.back()->CheckEpochs();
      pointers.push_back(handlers_.back().get());
    }
    inproc_ = std::make_unique<InprocTransport>(pointers);
    options_.model_fingerprint = "model";
    control_ = std::make_unique<FakeControl>(handlers_);
    options_.control = control_.get();
    kernels_ = &kernels;
  }
  void Kill(int shard) {
    control_->SetGone(ShardId{shard}, true);
    inproc_->Disconnect(ShardId{shard});
  }
  void Revive(int shard) {
    control_->SetGone(ShardId{shard}, false);
    inproc_->Connect(ShardId{shard}, handlers_[shard].get());
  }
  // What was learnt of latencies: so many calls of every size and shard.
  void WarmUp() {
    for (uint32_t seed = 0; seed < 20; ++seed) ASSERT_EQ(RunOnce(Rows(6, seed)), absl::OkStatus());
  }
  void Connect() {
    Transport& transport = faulty_ != nullptr ? static_cast<Transport&>(*faulty_) : *inproc_;
    auto pool = RemoteExperts::Create(Spec(), *kernels_, transport, descriptions_, options_);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  absl::Status Refusal() {
    return RemoteExperts::Create(Spec(), *kernels_, *inproc_, descriptions_, options_).status();
  }
  // Start and Finish of one layer; INTERNAL where the result is not what the experts make of the rows.
  absl::Status RunOnce(const Rows& rows, LayerId layer = LayerId{1}) {
    MatBuffer out(pool_->row_dtype(), static_cast<int64_t>(rows.experts.size()), kHidden);
    const auto ticket = pool_->Start(layer, rows.x.view(), rows.routing);
    if (!ticket.ok()) return ticket.status();
    const absl::Status status = pool_->Finish(*ticket, out.view());
    if (!status.ok()) return status;
    return rows.IsRight(out, layer) ? absl::OkStatus() : absl::InternalError("wrong rows");
  }
  // From now on, `faults` happen between router and shards; to be called before Connect.
  void MakeFaulty(const FaultyOptions& faults) { faulty_ = std::make_unique<FaultyTransport>(*inproc_, faults); }
  // Another cluster in place of this one.
  void StartAgain(int shards, int copies = 1, Compute compute = Compute::kF32) {
    TearDown();
    descriptions_.clear();
    handlers_.clear();
    Start(shards, copies, compute);
  }
  void TearDown() override {
    for (auto& handler : handlers_) handler->Resume();
    faulty_.reset();
    inproc_.reset();
    pool_.reset();
    control_.reset();
  }

  const Kernels* kernels_ = nullptr;
  std::vector<ShardDescription> descriptions_;
  std::vector<std::unique_ptr<FakeExpertHandler>> handlers_;
  std::unique_ptr<InprocTransport> inproc_;
  std::unique_ptr<FaultyTransport> faulty_;
  std::unique_ptr<FakeControl> control_;
  RemoteExpertsOptions options_;
  std::unique_ptr<RemoteExperts> pool_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_TESTING_H_
