// The decoder over pools that take rows on its own device.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/kernels/accelerator/host_accelerator.h"
#include "moe/kernels/accelerator/ops.h"
#include "moe/model/device/device_testing.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"
#include "moe/model/transformer.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// Takes rows on the device of a host accelerator and has them run by another pool, as rows on the host. What is to be
// in the queue is so: a transformer that looks too early finds what was there before.
class PoolOnDevice final : public ExpertPool {
 public:
  PoolOnDevice(ExpertPool& inner, HostAccelerator& accelerator) : inner_(inner), accelerator_(accelerator) {}
  DType row_dtype() const override { return inner_.row_dtype(); }
  Device row_device() const override { return Device::kCuda; }
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override {
    EXPECT_EQ(x.device, Device::kCuda);
    EXPECT_EQ(x.dtype, row_dtype());
    EXPECT_EQ(static_cast<int64_t>(routing.fault_layers.size()), x.rows);
    fault_layers_.assign(routing.fault_layers.begin(), routing.fault_layers.end());
    if (const absl::Status status = accelerator_.Synchronize(); !status.ok()) return status;
    x_ = MatBuffer(DType::kF32, x.rows, x.cols);
    for (int64_t i = 0; i < x.rows * x.cols; ++i) x_.view().Row<float>(0)[i] = LoadAsFloat(x.data, x.dtype, i);
    return inner_.Start(layer, x_.view(), routing);
  }
  absl::Status Finish(ExpertTicket ticket, MatView out) override {
    EXPECT_EQ(out.device, Device::kCuda);
    out_ = MatBuffer(out.dtype, out.rows, out.cols);
    const absl::Status status = inner_.Finish(ticket, out_.view());
    accelerator_.CopyIn(out.data, out_.view().data, out_.bytes());
    return status;
  }
  const std::vector<int32_t>& fault_layers() const { return fault_layers_; }  // of the last Start

 private:
  ExpertPool& inner_;
  HostAccelerator& accelerator_;
  MatBuffer x_, out_;
  std::vector<int32_t> fault_layers_;
};

TEST(RowsElsewhereTest, RowsToAPoolElsewhereOnTheDeviceGiveTheBitsOfThePoolHere) {
  const auto model = MakeTestModel({}, "bf16");
  ASSERT_TRUE(model.ok()) << model.status();
  for (const char* compute : {"f32", "bf16", "fp8"}) {
    const HostTarget host = MakeHostTarget(compute);
    const auto made = TestRunner::Create(*model, *host.target, 1);
    ASSERT_TRUE(made.ok()) << made.status();
    const auto& runner = *made;
    const std::vector<int32_t> ids = Prompt(20, 5, 300), blocks = {3, 1}, bad_blocks = {0};
    const auto want = runner->Prefill(0, ids, 20);
    ASSERT_TRUE(want.ok()) << want.status();
    ThreadPool threads(1);
    auto remote = host.target->MakeTransformer(
        runner->checkpoint(), threads, nullptr,
        {.rows_max = 32, .logit_rows_max = 32, .rows_elsewhere = Device::kCuda});
    ASSERT_TRUE(remote.ok()) << remote.status();
    auto kv = (*remote)->NewCache(runner->spec(), CacheDType(host.target->kernels().compute), 4, kKvBlockTokens);
    ASSERT_TRUE(kv.ok()) << kv.status();
    host.accelerator->BeLazy();
    PoolOnDevice pool(runner->experts(), *host.accelerator);
    MatBuffer logits(DType::kF32, 20, 300);
    const auto forward = [&](absl::Span<const SequenceSlice> slices) {
      return (*remote)->Forward(slices, **kv, pool, logits.view(), nullptr);
    };
    EXPECT_EQ((*remote)->Forward({SequenceSlice{ids, 0, blocks, 20}}, **kv, runner->experts(), logits.view(), nullptr)
                  .code(),
              absl::StatusCode::kFailedPrecondition);
    const absl::Status status = forward({SequenceSlice{ids, 0, blocks, 20}});
    ASSERT_TRUE(status.ok()) << status;
    const auto expect_bits = [&](const std::string& what) {
      Logits got;
      for (int row = 0; row < 20; ++row) {
        got.emplace_back(logits.view().Row<float>(row), logits.view().Row<float>(row) + 300);
      }
      ExpectSameBits(got, *want, absl::StrCat(compute, ", ", what));
    };
    expect_bits("alone");
    // Beside a sequence whose cached latent of layer 2 is no number.
    const std::vector<int32_t> first = {7, 8, 9}, next = {10};
    MatBuffer none(DType::kF32, 0, 300);
    ASSERT_TRUE((*remote)->Forward({SequenceSlice{first, 0, bad_blocks, 0}}, **kv, pool, none.view(), nullptr).ok());
    const MatView latents = (*kv)->Block(LayerId{2}, 0);
    std::memset(latents.data, 0xff, static_cast<size_t>(SizeOf(latents.dtype)));
    ASSERT_TRUE(forward({SequenceSlice{ids, 0, blocks, 20}, SequenceSlice{next, 3, bad_blocks, 0}}).ok());
    expect_bits("beside a sequence that failed");
    EXPECT_TRUE((*remote)->SliceStatus(0).ok());
    EXPECT_THAT(std::string((*remote)->SliceStatus(1).message()), HasSubstr("layer 2:"));
    std::vector<int32_t> faults(21, kNoFault);
    faults[20] = 2;
    EXPECT_EQ(pool.fault_layers(), faults);
  }
}

}  // namespace
}  // namespace conclave
