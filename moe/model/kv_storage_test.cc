#include "moe/model/kv_storage.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

ModelSpec Spec() {
  ModelSpec spec;
  spec.layers = 3;
  spec.attention.kv_lora_rank = 10;
  spec.attention.qk_rope_head_dim = 4;
  return spec;
}

TEST(KvStorageTest, ABlockHoldsOneLatentRowPerTokenAndLayer) {
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kBF16, 16), 3 * 16 * 14 * 2);
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kF32, 64), 3 * 64 * 14 * 4);
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kF8E4M3, 32), 3 * 32 * 48);
}

class KvBlocksTest : public testing::TestWithParam<int> {};

TEST_P(KvBlocksTest, OfAllLayersAreDisjoint) {
  const int block_tokens = GetParam();
  KvStorage kv(Spec(), DType::kF32, 4, block_tokens);
  EXPECT_EQ(kv.blocks(), 4);
  EXPECT_EQ(kv.block_tokens(), block_tokens);
  EXPECT_EQ(kv.dtype(), DType::kF32);
  const auto each = [&](auto visit) {
    for (int layer = 0; layer < 3; ++layer) {
      for (int block = 0; block < 4; ++block) {
        const MatView view = kv.Block(LayerId{layer}, block);
        ASSERT_EQ(view.rows, block_tokens);
        ASSERT_EQ(view.cols, 14);
        for (int row = 0; row < block_tokens; ++row) {
          for (int col = 0; col < 14; ++col) {
            const int number = ((layer * 4 + block) * block_tokens + row) * 14 + col + 1;
            visit(view.Row<float>(row)[col], static_cast<float>(number));
          }
        }
      }
    }
  };
  each([](float& value, float number) { value = number; });
  each([](float& value, float number) { ASSERT_EQ(value, number); });
}

INSTANTIATE_TEST_SUITE_P(Sizes, KvBlocksTest, testing::Values(16, 32, 64));

}  // namespace
}  // namespace conclave
