// Every branch that changes the arithmetic, against the plain model and against itself in other chunks.
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "moe/model/plain_model.h"
#include "moe/model/test_models.h"
#include "moe/model/test_runner.h"

namespace conclave {
namespace {

struct Shape {
  const char* name;
  const char* dtype;
  ConfigOverrides overrides;
};
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.name; }

// What the published models leave open: every branch that changes the arithmetic.
const Shape kShapes[] = {
    {"Plain", "bf16", {{"rope_scaling", "null"}}},
    {"Float32WeightsAndOddSizes",
     "f32",
     {{"rope_scaling", "null"},
      {"hidden_size", "52"},
      {"intermediate_size", "75"},
      {"moe_intermediate_size", "37"},
      {"q_lora_rank", "29"},
      {"kv_lora_rank", "23"},
      {"qk_nope_head_dim", "11"},
      {"qk_rope_head_dim", "6"},
      {"v_head_dim", "13"},
      {"num_attention_heads", "3"},
      {"num_key_value_heads", "3"},
      {"vocab_size", "277"}}},
    {"BiasesHalvesTiedNoSharedNoQueryLatent",
     "bf16",
     {{"rope_scaling", "null"},
      {"attention_bias", "true"},
      {"rope_interleave", "false"},
      {"n_shared_experts", "0"},
      {"tie_word_embeddings", "true"},
      {"q_lora_rank", "null"},
      {"n_group", "1"},
      {"topk_group", "1"}}},
    {"QueryLatentBiasesManyShared",
     "bf16",
     {{"rope_scaling", "null"}, {"attention_bias", "true"}, {"n_shared_experts", "3"}, {"rms_norm_eps", "1e-3"}}},
    {"Fp8HeadsAcrossScaleBlocks",
     "fp8",
     {{"rope_scaling", "null"},
      {"hidden_size", "160"},
      {"qk_nope_head_dim", "80"},
      {"v_head_dim", "72"},
      {"kv_lora_rank", "136"}}},
    {"EveryOtherLayerRoutes",
     "bf16",
     {{"rope_scaling", "null"}, {"first_k_dense_replace", "0"}, {"moe_layer_freq", "2"}}},
};

class TransformerShapeTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    auto model = MakeTestModel(GetParam().overrides, GetParam().dtype);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
  }
  std::string model_;
};

TEST_P(TransformerShapeTest, AgreesWithThePlainModel) {
  for (const Kernels* kernels : {&ReferenceKernels(Compute::kF32), &Fastest(Compute::kF32)}) {
    auto runner = TestRunner::Make(model_, *kernels, 2);
    ASSERT_NE(runner, nullptr);
    const std::vector<int32_t> ids = Prompt(21, 0, runner->spec().vocab);
    const auto got = runner->Prefill(0, ids, 256);
    ASSERT_TRUE(got.ok()) << got.status();
    const auto want = PlainLogits(runner->checkpoint(), ids);
    for (size_t row = 0; row < ids.size(); ++row) {
      for (int i = 0; i < runner->spec().vocab; ++i) ASSERT_NEAR((*got)[row][i], want[row][i], 1e-4) << row;
    }
  }
}

TEST_P(TransformerShapeTest, BitsDoNotDependOnChunksOfPrefill) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    auto runner = TestRunner::Make(model_, Fastest(compute), 2);
    ASSERT_NE(runner, nullptr);
    const std::vector<int32_t> ids = Prompt(83, 1, runner->spec().vocab);
    const auto whole = runner->Prefill(0, ids, 256);
    ASSERT_TRUE(whole.ok()) << whole.status();
    int sequence = 0;
    for (const int chunk : {1, 2, 5, 16, 17}) {
      const auto chunked = runner->Prefill(++sequence, ids, chunk);
      ASSERT_TRUE(chunked.ok()) << chunked.status();
      ExpectSameBits(*chunked, *whole, "chunks of " + std::to_string(chunk));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, TransformerShapeTest, testing::ValuesIn(kShapes),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace conclave
