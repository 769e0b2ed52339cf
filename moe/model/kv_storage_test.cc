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
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kBF16), 3 * kKvBlockTokens * 14 * 2);
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kF32), 3 * kKvBlockTokens * 14 * 4);
  EXPECT_EQ(KvBlockBytes(Spec(), DType::kF8E4M3), 3 * kKvBlockTokens * 48);
}

TEST(KvStorageTest, BlocksOfAllLayersAreDisjoint) {
  KvStorage kv(Spec(), DType::kF32, 4);
  EXPECT_EQ(kv.blocks(), 4);
  EXPECT_EQ(kv.dtype(), DType::kF32);
  const auto each = [&](auto visit) {
    for (int layer = 0; layer < 3; ++layer) {
      for (int block = 0; block < 4; ++block) {
        const MatView view = kv.Block(LayerId{layer}, block);
        ASSERT_EQ(view.rows, kKvBlockTokens);
        ASSERT_EQ(view.cols, 14);
        for (int row = 0; row < kKvBlockTokens; ++row) {
          for (int col = 0; col < 14; ++col) {
            visit(view.Row<float>(row)[col], static_cast<float>(((layer * 4 + block) * 16 + row) * 14 + col + 1));
          }
        }
      }
    }
  };
  each([](float& value, float number) { value = number; });
  each([](float& value, float number) { ASSERT_EQ(value, number); });
}

}  // namespace
}  // namespace conclave
