// Models of INT8 and INT4 weights, the head among them, in kInt8: different units compute one row and many, and the
// bits are the same.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/quantize.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"

namespace conclave {
namespace {

class IntegerModelTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto model = MakeTestModel({}, "bf16");
    ASSERT_TRUE(model.ok()) << model.status();
    ThreadPool threads(1);
    QuantizeOptions options;
    options.model = *model;
    options.to = GetParam();
    options.head = true;
    options.out = *model + "-" + GetParam();
    const absl::Status status = QuantizeModel(
        options, threads, [](int64_t, int64_t) {}, [] { return false; });
    ASSERT_TRUE(status.ok()) << status;
    model_ = options.out;
  }
  std::string model_;
};

TEST_P(IntegerModelTest, BitsDoNotDependOnChunksThreadsAndBatchMates) {
  const std::vector<int32_t> ids = Prompt(70, 3, 300);
  for (const char* isa : {"amx", "avx512-bf16", "avx512", "avx2", "scalar"}) {
    const auto kernels = CpuKernels(Compute::kInt8, isa);
    if (!kernels.ok()) continue;  // this CPU cannot run it
    const auto runner = TestRunner::Make(model_, **kernels, 1), shared = TestRunner::Make(model_, **kernels, 3);
    ASSERT_TRUE(runner != nullptr && shared != nullptr);
    const auto want = runner->Prefill(0, ids, 1);
    ASSERT_TRUE(want.ok()) << want.status();
    int sequence = 1;
    for (const int chunk : {4, 5, 16, 33, 70}) {
      const auto got = shared->Prefill(sequence++, ids, chunk);
      ASSERT_TRUE(got.ok()) << got.status();
      ExpectSameBits(*got, *want, std::string(isa) + " in chunks of " + std::to_string(chunk));
    }
    Logits beside;
    for (size_t begin = 0; begin < ids.size(); begin += 7) {
      const std::vector<int32_t> piece(ids.begin() + begin, ids.begin() + begin + 7);
      const auto step = shared->Step({{6, {static_cast<int32_t>(begin)}}, {7, piece}});
      ASSERT_TRUE(step.ok()) << step.status();
      beside.insert(beside.end(), step->begin() + 1, step->end());
    }
    ExpectSameBits(beside, *want, std::string(isa) + " beside another");
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, IntegerModelTest, testing::Values("int8", "int4"));

}  // namespace
}  // namespace conclave
