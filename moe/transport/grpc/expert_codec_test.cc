#include "moe/transport/grpc/expert_codec.h"

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "conclave/v1/expert.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Time kNow = absl::UnixEpoch();

v1::ExpertRequest GoodRequest() {
  v1::ExpertRequest request;
  request.set_call_id(9);
  request.set_placement_epoch(4);
  request.set_layer(3);
  request.mutable_rows()->set_dtype(v1::DTYPE_F32);
  request.mutable_rows()->add_shape(2);
  request.mutable_rows()->add_shape(4);
  request.mutable_rows()->set_data(std::string(32, 'x'));
  request.add_experts_per_row(2);
  request.add_experts_per_row(1);
  for (const int expert : {1, 5, 0}) request.add_experts(expert);
  request.set_timeout_us(1500);
  return request;
}

// The request as its receiver parses it.
void Encode(const ExpertCall& call, absl::Time now, bool with_checksum, v1::ExpertRequest* received,
            bool packed = false) {
  static v1::ExpertRequest scratch;
  std::string bytes;
  EncodeExpertRequest(call, now, with_checksum, packed, &scratch, [&bytes](size_t count) {
    bytes.assign(count, '?');
    return reinterpret_cast<uint8_t*>(bytes.data());
  });
  ASSERT_TRUE(received->ParseFromString(bytes));
}

TEST(DecodeExpertRequest, GivesViewsOfTheMessage) {
  const v1::ExpertRequest request = GoodRequest();
  DecodedCall decoded;
  const absl::Status status = DecodeExpertRequest(request, CallLimits{}, kNow, &decoded);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(decoded.call.call_id, 9u);
  EXPECT_EQ(decoded.call.placement_epoch, 4u);
  EXPECT_EQ(decoded.call.layer, LayerId{3});
  EXPECT_EQ(decoded.call.rows.data, request.rows().data().data());
  EXPECT_THAT(decoded.call.row_offsets, ElementsAre(0, 2, 3));
  EXPECT_THAT(decoded.call.experts, ElementsAre(1, 5, 0));
  EXPECT_EQ(decoded.call.deadline, kNow + absl::Microseconds(1500));
}

TEST(DecodeExpertRequest, ReusesADecodedCallForAShorterMessage) {
  DecodedCall decoded;
  ASSERT_TRUE(DecodeExpertRequest(GoodRequest(), CallLimits{}, kNow, &decoded).ok());
  v1::ExpertRequest empty;
  empty.mutable_rows()->set_dtype(v1::DTYPE_BF16);
  empty.mutable_rows()->add_shape(0);
  empty.mutable_rows()->add_shape(4);
  ASSERT_TRUE(DecodeExpertRequest(empty, CallLimits{}, kNow, &decoded).ok());
  EXPECT_THAT(decoded.call.row_offsets, ElementsAre(0));
  EXPECT_EQ(decoded.call.deadline, absl::InfiniteFuture());
}

TEST(DecodeExpertRequest, NamesTheFieldThatIsWrong) {
  struct Case {
    std::function<void(v1::ExpertRequest&)> damage;
    std::string names;
  };
  const std::vector<Case> cases = {
      {[](v1::ExpertRequest& r) { r.clear_rows(); }, "rows.dtype"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->set_dtype(static_cast<v1::DType>(77)); }, "rows.dtype: 77"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->clear_shape(); }, "rows.shape: 0 dimensions"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->add_shape(1); }, "rows.shape: 3 dimensions"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(0, -2); }, "rows.shape"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(1, 0); }, "rows.shape"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(0, std::numeric_limits<int64_t>::max()); }, "rows.shape"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->set_shape(1, std::numeric_limits<int64_t>::max()); }, "rows.shape"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->mutable_data()->pop_back(); }, "rows.data: 31 bytes"},
      {[](v1::ExpertRequest& r) { r.mutable_rows()->mutable_data()->push_back('y'); }, "rows.data: 33 bytes"},
      {[](v1::ExpertRequest& r) { r.add_experts_per_row(0); }, "experts_per_row: 3 entries"},
      {[](v1::ExpertRequest& r) { r.set_experts_per_row(0, 0xffffffff); }, "experts_per_row[0]"},
      {[](v1::ExpertRequest& r) { r.set_experts_per_row(1, 0); }, "experts: 3 ids"},
      {[](v1::ExpertRequest& r) { r.set_experts(2, -1); }, "experts[2]"},
      {[](v1::ExpertRequest& r) { r.set_experts(1, 1); }, "experts[1]"},
      {[](v1::ExpertRequest& r) { r.set_layer(-1); }, "layer"},
  };
  for (const Case& bad : cases) {
    v1::ExpertRequest request = GoodRequest();
    bad.damage(request);
    DecodedCall decoded;
    const absl::Status status = DecodeExpertRequest(request, CallLimits{}, kNow, &decoded);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.names;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.names));
  }
}

TEST(EncodeExpertRequest, IsDecodedToTheSameCall) {
  const v1::ExpertRequest request = GoodRequest();
  DecodedCall decoded, again;
  ASSERT_TRUE(DecodeExpertRequest(request, CallLimits{}, kNow, &decoded).ok());
  v1::ExpertRequest encoded;
  for (int i = 0; i < 2; ++i) Encode(decoded.call, kNow, false, &encoded);  // the second reuses its memory
  EXPECT_EQ(encoded.SerializeAsString(), request.SerializeAsString());
}

TEST(EncodeExpertRequest, PackedRowsComeAsTheyWereRounded) {
  MatBuffer plain(DType::kF32, 2, 200), rounded(DType::kBF16, 2, 200);
  for (int i = 0; i < 400; ++i) plain.view().Row<float>(0)[i] = 0.37f * static_cast<float>(i - 170);
  RoundToFp8(plain.view(), rounded.view());
  DecodedCall decoded, again;
  const v1::ExpertRequest request = GoodRequest();
  ASSERT_TRUE(DecodeExpertRequest(request, CallLimits{}, kNow, &decoded).ok());
  decoded.call.rows = rounded.view();
  v1::ExpertRequest encoded;
  Encode(decoded.call, kNow, /*with_checksum=*/true, &encoded, /*packed=*/true);
  EXPECT_EQ(encoded.rows().data().size(), 2u * 202);
  const absl::Status status = DecodeExpertRequest(encoded, CallLimits{}, kNow, &again);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(std::memcmp(again.call.rows.data, rounded.view().data, static_cast<size_t>(rounded.bytes())), 0);
  encoded.mutable_rows()->mutable_data()->pop_back();
  encoded.clear_checksum();
  EXPECT_THAT(std::string(DecodeExpertRequest(encoded, CallLimits{}, kNow, &again).message()),
              HasSubstr("rows.data: 403 bytes"));
  encoded.mutable_rows()->set_shape(0, 1 << 13);
  encoded.mutable_rows()->set_shape(1, 1 << 16);
  encoded.mutable_rows()->mutable_data()->resize((size_t{1} << 29) + (1 << 22));
  encoded.mutable_experts_per_row()->Resize(1 << 13, 0);
  EXPECT_THAT(std::string(DecodeExpertRequest(encoded, CallLimits{}, kNow, &again).message()),
              HasSubstr("once unpacked"));
}

TEST(EncodeExpertRequest, NeverTurnsAPastDeadlineIntoNone) {
  const v1::ExpertRequest request = GoodRequest();
  DecodedCall decoded;
  ASSERT_TRUE(DecodeExpertRequest(request, CallLimits{}, kNow, &decoded).ok());
  v1::ExpertRequest encoded;
  Encode(decoded.call, kNow + absl::Seconds(9), false, &encoded);
  EXPECT_GT(encoded.timeout_us(), 0u);
  decoded.call.deadline = absl::InfiniteFuture();
  Encode(decoded.call, kNow, false, &encoded);
  EXPECT_EQ(encoded.timeout_us(), 0u);
}

TEST(EncodeExpertRequest, AChecksumTellsADamagedRequestFromAGoodOne) {
  const v1::ExpertRequest request = GoodRequest();
  DecodedCall decoded;
  ASSERT_TRUE(DecodeExpertRequest(request, CallLimits{}, kNow, &decoded).ok());
  v1::ExpertRequest sealed;
  Encode(decoded.call, kNow, /*with_checksum=*/true, &sealed);
  DecodedCall again;
  EXPECT_TRUE(DecodeExpertRequest(sealed, CallLimits{}, kNow, &again).ok());
  v1::ExpertRequest damaged = sealed;
  (*damaged.mutable_rows()->mutable_data())[17] ^= 4;
  EXPECT_EQ(DecodeExpertRequest(damaged, CallLimits{}, kNow, &again).code(), absl::StatusCode::kDataLoss);
  damaged = sealed;
  damaged.set_experts(1, 6);
  EXPECT_EQ(DecodeExpertRequest(damaged, CallLimits{}, kNow, &again).code(), absl::StatusCode::kDataLoss);
  damaged = sealed;
  damaged.set_call_id(10);
  EXPECT_EQ(DecodeExpertRequest(damaged, CallLimits{}, kNow, &again).code(), absl::StatusCode::kDataLoss);
  // What damage made out of range is not its sender's fault.
  damaged = sealed;
  damaged.set_experts(1, -1);
  EXPECT_EQ(DecodeExpertRequest(damaged, CallLimits{}, kNow, &again).code(), absl::StatusCode::kDataLoss);
  damaged = sealed;
  damaged.mutable_rows()->set_shape(0, 1 << 20);
  EXPECT_EQ(DecodeExpertRequest(damaged, CallLimits{}, kNow, &again).code(), absl::StatusCode::kDataLoss);
}

class DecodeExpertReplyTest : public testing::Test {
 protected:
  DecodeExpertReplyTest() {
    EXPECT_TRUE(DecodeExpertRequest(request_, CallLimits{}, kNow, &decoded_).ok());
    MatView rows = PrepareExpertReply(decoded_.call, &reply_);
    for (int i = 0; i < 12; ++i) rows.Row<float>(i / 4)[i % 4] = static_cast<float>(i);
  }
  void IsDamaged(const std::string& names) {
    const absl::Status status = DecodeExpertReply(reply_, false, ViewF32(out_, 3, 4));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
    for (const float value : out_) EXPECT_EQ(value, -1.0f) << "a refused reply must not touch the output";
  }
  const v1::ExpertRequest request_ = GoodRequest();
  DecodedCall decoded_;
  v1::ExpertReply reply_;
  float out_[12] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
};

TEST_F(DecodeExpertReplyTest, FillsTheOutput) {
  ASSERT_TRUE(DecodeExpertReply(reply_, false, ViewF32(out_, 3, 4)).ok());
  for (int i = 0; i < 12; ++i) EXPECT_EQ(out_[i], static_cast<float>(i));
}

TEST_F(DecodeExpertReplyTest, AChecksumTellsADamagedReplyFromAGoodOne) {
  EXPECT_EQ(DecodeExpertReply(reply_, /*needs_checksum=*/true, ViewF32(out_, 3, 4)).code(),
            absl::StatusCode::kDataLoss);
  ASSERT_TRUE(DecodeExpertReply(reply_, false, ViewF32(out_, 3, 4)).ok());
  SealExpertReply(ViewF32(out_, 3, 4), &reply_);
  ASSERT_TRUE(DecodeExpertReply(reply_, true, ViewF32(out_, 3, 4)).ok());
  (*reply_.mutable_rows()->mutable_data())[5] ^= 1;
  for (const bool needed : {false, true}) {
    float untouched[12] = {};
    EXPECT_EQ(DecodeExpertReply(reply_, needed, ViewF32(untouched, 3, 4)).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(untouched[1], 0);
  }
}

TEST_F(DecodeExpertReplyTest, GivesTheShardsOwnStatus) {
  EncodeExpertError(request_, absl::FailedPreconditionError("not held"), &reply_);
  EXPECT_EQ(DecodeExpertReply(reply_, false, ViewF32(out_, 3, 4)), absl::FailedPreconditionError("not held"));
}

TEST_F(DecodeExpertReplyTest, AChecksumTellsADamagedErrorFromTheShardsOwn) {
  v1::ExpertRequest sealed = request_;
  sealed.set_checksum(1);  // of whatever: the error has one too
  EncodeExpertError(sealed, absl::FailedPreconditionError("not held"), &reply_);
  EXPECT_EQ(DecodeExpertReply(reply_, true, ViewF32(out_, 3, 4)), absl::FailedPreconditionError("not held"));
  reply_.set_status_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
  IsDamaged("an error that was damaged");
}

TEST_F(DecodeExpertReplyTest, CallsWhatMakesNoSenseDataLoss) {
  v1::ExpertReply good = reply_;
  reply_.set_status_code(99);
  IsDamaged("status_code 99");
  reply_ = good;
  reply_.mutable_rows()->set_shape(0, 2);
  reply_.mutable_rows()->mutable_data()->resize(32);
  IsDamaged("[2, 4] instead of [3, 4]");
  reply_ = good;
  reply_.mutable_rows()->mutable_data()->resize(47);
  IsDamaged("47 bytes");
  reply_ = good;
  reply_.clear_rows();
  IsDamaged("rows.dtype");
}

TEST(DecodeDescription, ReadsWhatEncodeDescriptionWrote) {
  ShardDescription description;
  description.name = "expert-1";
  description.model_fingerprint = "abc";
  description.numeric_profile = "r1";
  description.placement_epoch = 6;
  description.hidden = 64;
  description.row_dtype = DType::kBF16;
  description.expert_bytes = uint64_t{1} << 40;
  description.holdings = {{LayerId{1}, {ExpertId{2}, ExpertId{3}}}, {LayerId{2}, {}}};
  v1::DescribeResponse proto;
  EncodeDescription(description, &proto);
  const auto decoded = DecodeDescription(proto);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->name, "expert-1");
  EXPECT_EQ(decoded->model_fingerprint, "abc");
  EXPECT_EQ(decoded->numeric_profile, "r1");
  EXPECT_EQ(decoded->placement_epoch, 6u);
  EXPECT_EQ(decoded->hidden, 64);
  EXPECT_EQ(decoded->row_dtype, DType::kBF16);
  EXPECT_EQ(decoded->expert_bytes, uint64_t{1} << 40);
  ASSERT_EQ(decoded->holdings.size(), 2u);
  EXPECT_THAT(decoded->holdings[0].experts, ElementsAre(ExpertId{2}, ExpertId{3}));
  EXPECT_TRUE(decoded->holdings[1].experts.empty());

  proto.set_protocol_version(proto.protocol_version() + 2);
  EXPECT_EQ(DecodeDescription(proto).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(DecodeDescription(proto).status().message()), HasSubstr("expert shard expert-1"));
  proto.set_protocol_version(proto.protocol_version() - 1);
  EXPECT_TRUE(DecodeDescription(proto).ok());
  proto.set_hidden_size(0);
  EXPECT_THAT(std::string(DecodeDescription(proto).status().message()), HasSubstr("hidden_size"));
  proto.set_hidden_size(64);
  proto.set_row_dtype(v1::DTYPE_UNSPECIFIED);
  EXPECT_THAT(std::string(DecodeDescription(proto).status().message()), HasSubstr("row_dtype"));
}

}  // namespace
}  // namespace conclave
