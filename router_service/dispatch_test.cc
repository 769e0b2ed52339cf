#include "router_service/dispatch.h"

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;

const Kernels& F32() { return ReferenceKernels(Compute::kF32); }

TEST(Dispatch, SendsARowOnceToEachShardWithThatShardsExperts) {
  float x[3][2] = {{1, 2}, {3, 4}, {5, 6}};
  // Row 0 goes to experts 0, 1 and 9, row 1 to 8 and 9, row 2 to 0; shard 0 holds 0-7, shard 2 holds 8-15.
  const std::vector<RoutedPair> pairs = {{0, 0, 0, ShardId{0}}, {0, 1, 1, ShardId{0}}, {0, 9, 2, ShardId{2}},
                                         {1, 8, 3, ShardId{2}}, {1, 9, 4, ShardId{2}}, {2, 0, 5, ShardId{0}}};
  Dispatch dispatch(6, 6, 3, 2, DType::kF32, RowFormat::kCompute);
  dispatch.Fill(pairs, ViewF32(&x[0][0], 3, 2), F32());
  ASSERT_EQ(dispatch.messages().size(), 2u);
  const ShardMessage& first = dispatch.messages()[0];
  EXPECT_EQ(first.shard, ShardId{0});
  EXPECT_THAT(first.call.row_offsets, ElementsAre(0, 2, 3));
  EXPECT_THAT(first.call.experts, ElementsAre(0, 1, 0));
  ASSERT_EQ(first.call.rows.rows, 2);
  EXPECT_EQ(first.call.rows.Row<float>(0)[0], 1);
  EXPECT_EQ(first.call.rows.Row<float>(1)[1], 6);
  const ShardMessage& second = dispatch.messages()[1];
  EXPECT_EQ(second.shard, ShardId{2});
  EXPECT_THAT(second.call.row_offsets, ElementsAre(0, 1, 3));
  EXPECT_THAT(second.call.experts, ElementsAre(9, 8, 9));
}

TEST(Dispatch, IsReusedForOtherRoutings) {
  std::mt19937 random(3);
  std::vector<float> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  Dispatch dispatch(64 * 4, 64 * 4, 5, 1, DType::kF32, RowFormat::kCompute);
  for (int round = 0; round < 50; ++round) {
    const int rows = static_cast<int>(random() % 65);
    std::vector<RoutedPair> pairs;
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < 4; ++k) {
        const int expert = k * 8 + static_cast<int>(random() % 8);
        pairs.push_back({row, expert, static_cast<int32_t>(pairs.size()), ShardId{static_cast<int32_t>(random() % 5)}});
      }
    }
    dispatch.Fill(pairs, ViewF32(static_cast<const float*>(x.data()), rows, 1), F32());
    for (ShardMessage& message : dispatch.messages()) {
      ASSERT_EQ(static_cast<int64_t>(message.call.row_offsets.size()), message.call.rows.rows + 1);
      for (int64_t row = 0; row < message.call.rows.rows; ++row) {
        for (uint32_t p = message.call.row_offsets[row]; p < message.call.row_offsets[row + 1]; ++p) {
          message.reply.Row<float>(p)[0] = message.call.rows.Row<float>(row)[0] * 100 + message.call.experts[p];
        }
      }
    }
    std::vector<float> out(pairs.size(), -1);
    for (const ShardMessage& message : dispatch.messages()) {
      for (size_t p = 0; p < message.pairs.size(); ++p) out[message.pairs[p].out] = message.reply.Row<float>(p)[0];
    }
    for (const RoutedPair& pair : pairs) EXPECT_EQ(out[pair.out], pair.row * 100 + pair.expert);
  }
}

}  // namespace
}  // namespace conclave
