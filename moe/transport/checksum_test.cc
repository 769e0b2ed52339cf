#include "moe/transport/checksum.h"

#include <cstdint>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"

namespace conclave {
namespace {

struct Call {
  Call() : rows(DType::kF32, 3, 8) {
    for (int i = 0; i < 24; ++i) rows.view().Row<float>(0)[i] = static_cast<float>(i);
    call.call_id = 7;
    call.placement_epoch = 2;
    call.layer = LayerId{3};
    call.rows = rows.view();
    call.row_offsets = offsets;
    call.experts = experts;
  }
  MatBuffer rows;
  std::vector<uint32_t> offsets = {0, 2, 2, 3};
  std::vector<int32_t> experts = {1, 5, 4};
  ExpertCall call;
};

TEST(Checksum, EveryPartOfACallCounts) {
  std::set<uint64_t> seen = {ChecksumOfCall(Call().call)};
  const auto differs = [&](auto change) {
    Call call;
    change(call);
    EXPECT_TRUE(seen.insert(ChecksumOfCall(call.call)).second);
  };
  differs([](Call& c) { ++c.call.call_id; });
  differs([](Call& c) { ++c.call.placement_epoch; });
  differs([](Call& c) { c.call.layer = LayerId{4}; });
  differs([](Call& c) { c.offsets[1] = 1; });
  differs([](Call& c) { c.experts[2] = 6; });
  for (int bit = 0; bit < 24 * 32; ++bit) {
    differs([&](Call& c) { static_cast<uint8_t*>(c.rows.view().data)[bit / 8] ^= 1 << (bit % 8); });
  }
  EXPECT_EQ(ChecksumOfCall(Call().call), ChecksumOfCall(Call().call));
}

TEST(Checksum, GapsBetweenRowsDoNotCount) {
  MatBuffer wide(DType::kBF16, 4, 12), narrow(DType::kBF16, 4, 8);
  for (int row = 0; row < 4; ++row) {
    for (int col = 0; col < 12; ++col) wide.view().Row<uint16_t>(row)[col] = static_cast<uint16_t>(row * 100 + col);
    for (int col = 0; col < 8; ++col) narrow.view().Row<uint16_t>(row)[col] = static_cast<uint16_t>(row * 100 + col);
  }
  const ConstMatView part = ConstMatView(wide.view()).Cols(0, 8);
  EXPECT_EQ(ChecksumOfReply(1, part), ChecksumOfReply(1, narrow.view()));
  EXPECT_NE(ChecksumOfReply(2, part), ChecksumOfReply(1, narrow.view()));
}

TEST(Checksum, ErrorsDifferByCallCodeAndText) {
  EXPECT_EQ(ChecksumOfError(1, 5, "gone"), ChecksumOfError(1, 5, "gone"));
  EXPECT_NE(ChecksumOfError(1, 5, "gone"), ChecksumOfError(2, 5, "gone"));
  EXPECT_NE(ChecksumOfError(1, 5, "gone"), ChecksumOfError(1, 4, "gone"));
  EXPECT_NE(ChecksumOfError(1, 5, "gone"), ChecksumOfError(1, 5, "gome"));
}

TEST(Checksum, EmptyRepliesOfTwoCallsDiffer) {
  MatBuffer none(DType::kF32, 0, 8);
  EXPECT_NE(ChecksumOfReply(1, none.view()), ChecksumOfReply(2, none.view()));
}

}  // namespace
}  // namespace conclave
