#include "moe/transport/validate_call.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/base/limits.h"
#include "moe/tensor/mat_view.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class ValidateExpertCallTest : public testing::Test {
 protected:
  ValidateExpertCallTest() {
    call_.layer = LayerId{3};
    call_.rows = ViewF32(static_cast<const float*>(values_), 2, 4);
    call_.row_offsets = offsets_;
    call_.experts = experts_;
  }
  void Refuses(const std::string& names) {
    const absl::Status status = ValidateExpertCall(call_, limits_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
  }

  float values_[8] = {};
  std::vector<uint32_t> offsets_ = {0, 2, 3};
  std::vector<int32_t> experts_ = {1, 5, 0};
  ExpertCall call_;
  CallLimits limits_;
};

TEST_F(ValidateExpertCallTest, TakesAProperCall) {
  EXPECT_TRUE(ValidateExpertCall(call_, limits_).ok());
  limits_.hidden = 4;
  EXPECT_TRUE(ValidateExpertCall(call_, limits_).ok());
}

TEST_F(ValidateExpertCallTest, TakesACallWithoutRows) {
  call_.rows.rows = 0;
  call_.rows.data = nullptr;
  offsets_ = {0};
  call_.row_offsets = offsets_;
  call_.experts = {};
  EXPECT_TRUE(ValidateExpertCall(call_, limits_).ok());
}

TEST_F(ValidateExpertCallTest, NamesTheLayer) {
  call_.layer = LayerId{-1};
  Refuses("layer: -1");
  call_.layer = LayerId{limits::kLayersMax};
  Refuses("layer: 1024");
}

TEST_F(ValidateExpertCallTest, NamesTheRows) {
  limits_.hidden = 5;
  Refuses("rows.shape[1]: 4 is not this model's hidden size, 5");
  limits_.hidden = 0;
  limits_.rows_max = 1;
  Refuses("rows.shape[0]: 2");
  limits_.rows_max = 2;
  limits_.bytes_max = 31;
  Refuses("rows.data: bytes: 32");
  call_.rows.cols = 0;
  Refuses("rows.shape[1]: 0");
  call_.rows.cols = int64_t{1} << 62;
  Refuses("rows.shape[1]");
  call_.rows.dtype = DType::kI64;
  Refuses("rows.dtype");
}

TEST_F(ValidateExpertCallTest, LimitsTheReplyToo) {
  limits_.bytes_max = 47;  // the rows take 32, the three results 48
  Refuses("bytes of the reply: 48");
}

TEST_F(ValidateExpertCallTest, NamesTheOffsets) {
  offsets_ = {0, 3};
  call_.row_offsets = offsets_;
  Refuses("experts_per_row: 1 entries for 2 rows");
  offsets_ = {0, 4, 3};
  call_.row_offsets = offsets_;
  Refuses("experts_per_row[1]: -1");
  offsets_ = {0, 1, 2};
  call_.row_offsets = offsets_;
  Refuses("experts: 3 ids where experts_per_row adds up to 2");
  call_.row_offsets = {};
  Refuses("experts_per_row: -1 entries");
  offsets_ = {0, 1, limits::kTopKMax + 2};
  call_.row_offsets = offsets_;
  Refuses("experts_per_row[1]: 65");
}

TEST_F(ValidateExpertCallTest, NamesTheExperts) {
  experts_[1] = 1;
  Refuses("experts[1]: 1 after 1 in row 0");
  experts_[1] = limits::kExpertsPerLayerMax;
  Refuses("experts[1]: 8192");
  experts_[1] = -1;
  Refuses("experts[1]: -1");
}

TEST_F(ValidateExpertCallTest, ChecksTheShapeOfTheReply) {
  float out[12];
  EXPECT_TRUE(ValidateReplyView(call_, ViewF32(out, 3, 4)).ok());
  EXPECT_FALSE(ValidateReplyView(call_, ViewF32(out, 2, 4)).ok());
  EXPECT_FALSE(ValidateReplyView(call_, ViewF32(out, 3, 3)).ok());
  EXPECT_FALSE(ValidateReplyView(call_, ViewF32(static_cast<float*>(nullptr), 3, 4)).ok());
}

}  // namespace
}  // namespace conclave
