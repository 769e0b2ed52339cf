#include "router_service/remote_experts_testing.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "moe/model/numeric_profile.h"

namespace conclave {

ModelSpec Spec() {
  ModelSpec spec;
  spec.hidden = kHidden;
  spec.layers = 3;
  spec.dense_layers_first = 1;
  spec.gate.experts = kExperts;
  spec.gate.top_k = kTopK;
  return spec;
}

Rows::Rows(int rows, uint32_t seed) : x(DType::kF32, rows, kHidden) {
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

bool Rows::IsRight(const MatBuffer& out, LayerId layer) const {
  for (size_t p = 0; p < experts.size(); ++p) {
    for (int c = 0; c < kHidden; ++c) {
      const float want = FakeExpertValue(x.view().Row<float>(p / kTopK)[c], layer, experts[p]);
      if (LoadAsFloat(out.view().RowBytes(p), out.view().dtype, c) != want) return false;
    }
  }
  return true;
}

void RemoteExpertsTest::Start(int shards, int copies, Compute compute) {
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

void RemoteExpertsTest::Connect() {
  Transport& transport = faulty_ != nullptr ? static_cast<Transport&>(*faulty_) : *inproc_;
  auto pool = RemoteExperts::Create(Spec(), *kernels_, transport, descriptions_, options_);
  ASSERT_TRUE(pool.ok()) << pool.status();
  pool_ = *std::move(pool);
}

absl::Status RemoteExpertsTest::RunOnce(const Rows& rows, LayerId layer) {
  MatBuffer out(pool_->row_dtype(), static_cast<int64_t>(rows.experts.size()), kHidden);
  const auto ticket = pool_->Start(layer, rows.x.view(), rows.routing);
  if (!ticket.ok()) return ticket.status();
  const absl::Status status = pool_->Finish(*ticket, out.view());
  if (!status.ok()) return status;
  return rows.IsRight(out, layer) ? absl::OkStatus() : absl::InternalError("wrong rows");
}

void RemoteExpertsTest::StartAgain(int shards, int copies, Compute compute) {
  TearDown();
  descriptions_.clear();
  handlers_.clear();
  Start(shards, copies, compute);
}

void RemoteExpertsTest::TearDown() {
  for (auto& handler : handlers_) handler->Resume();
  faulty_.reset();
  inproc_.reset();
  pool_.reset();
  control_.reset();
}

}  // namespace conclave
