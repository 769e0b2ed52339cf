#include "router_service/remote_experts_testing.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/finite_rows.h"

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

void OnDeviceTransport::Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) {
  EXPECT_EQ(call.rows.device, Device::kCuda);
  EXPECT_EQ(out.device, Device::kCuda);
  ASSERT_NE(call.ready, nullptr);
  EXPECT_EQ(call.ready->Wait(), absl::OkStatus());
  rows_stay.push_back(call.rows_stay);
  ExpertCall here = call;
  here.rows.device = out.device = Device::kCpu;
  inner_.Call(shard, here, out, std::move(done));
}

void RemoteExpertsTest::Connect() {
  Transport& transport = faulty_ != nullptr ? static_cast<Transport&>(*faulty_) : *inproc_;
  if (RowsOnDevice()) {
    device_ = HostAccelerator::Create(device_bytes_);
    device_->BeLazy();
    options_.accelerator = device_.get();
    on_device_ = std::make_unique<OnDeviceTransport>(transport);
  }
  auto pool = RemoteExperts::Create(Spec(), *kernels_, on_device_ != nullptr ? *on_device_ : transport, descriptions_,
                                    options_);
  ASSERT_TRUE(pool.ok()) << pool.status();
  pool_ = *std::move(pool);
}

absl::StatusOr<ExpertTicket> RemoteExpertsTest::Begin(const Rows& rows, LayerId layer) {
  if (pool_->row_device() == Device::kCpu) return pool_->Start(layer, rows.x.view(), rows.routing);
  const ConstMatView x = rows.x.view();
  OnDevice there;
  there.x = MatBuffer(pool_->row_dtype(), x.rows, x.cols);
  for (int64_t row = 0; row < x.rows; ++row) {
    there.fault_layers.push_back(FirstNonFiniteRow(x.Rows(row, 1), pool_->row_dtype()) < 0 ? kNoFault : 1);
  }
  there.rounded = MatBuffer(pool_->row_dtype(), x.rows, x.cols);
  kernels_->convert(x, there.rounded.view());
  device_->CopyIn(there.x.view().data, there.rounded.view().data, there.rounded.bytes());  // in the queue
  Routing routing = rows.routing;
  routing.fault_layers = there.fault_layers;
  MatView view = there.x.view();
  view.device = Device::kCuda;
  auto ticket = pool_->Start(layer, view, routing);
  if (ticket.ok()) {
    in_flight_[ticket->id] = std::move(there);
  } else {
    EXPECT_EQ(device_->Synchronize(), absl::OkStatus());  // `there` goes
  }
  return ticket;
}

absl::Status RemoteExpertsTest::End(ExpertTicket ticket, MatBuffer& out) {
  MatView view = out.view();
  view.device = pool_->row_device();
  const absl::Status status = pool_->Finish(ticket, view);
  if (view.device == Device::kCpu) return status;
  EXPECT_EQ(device_->Synchronize(), absl::OkStatus());
  in_flight_.erase(ticket.id);
  return status;
}

absl::Status RemoteExpertsTest::RunOnce(const Rows& rows, LayerId layer) {
  MatBuffer out(pool_->row_dtype(), static_cast<int64_t>(rows.experts.size()), kHidden);
  const auto ticket = Begin(rows, layer);
  if (!ticket.ok()) return ticket.status();
  const absl::Status status = End(*ticket, out);
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
  on_device_.reset();
  faulty_.reset();
  inproc_.reset();
  pool_.reset();
  if (device_ != nullptr) {
    EXPECT_EQ(device_->allocated_bytes(), 0);
  }
  options_.accelerator = nullptr;
  device_.reset();
  control_.reset();
}

}  // namespace conclave
