#include "moe/transport/data_plane/wire.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/data_plane/body_buffer.h"
#include "moe/transport/data_plane/message_gather.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

const absl::Time kNow = absl::UnixEpoch();

// A good call of three rows, of which the second goes nowhere, and its body.
struct GoodCall {
  GoodCall() : rows(DType::kBF16, 3, 40) {
    for (int64_t i = 0; i < rows.bytes(); ++i) static_cast<std::byte*>(rows.view().data)[i] = std::byte(i);
    call.call_id = 9;
    call.placement_epoch = 4;
    call.layer = LayerId{2};
    call.rows = rows.view();
    call.row_offsets = offsets;
    call.experts = experts;
    call.deadline = kNow + absl::Milliseconds(5);
    header.connection = 77;
    header.key = 1234;
    header.sequence = 1;
    DescribeCall(call, kNow, &header);
    body.Reserve(static_cast<int64_t>(header.body_bytes));
    const int64_t meta = CallMetaBytes(3, 4);
    WriteCallMeta(call, body.data());
    std::memcpy(body.data() + meta, rows.view().data, static_cast<size_t>(rows.bytes()));
  }
  void Seal() {
    header.flags = kWireChecksummed;
    WireChecksum checksum;
    checksum.Begin(header);
    checksum.Add(body.data(), static_cast<int64_t>(header.body_bytes));
    header.checksum = checksum.Digest();
  }
  std::vector<uint32_t> offsets = {0, 3, 3, 4};
  std::vector<int32_t> experts = {1, 5, 6, 2};
  MatBuffer rows;
  ExpertCall call;
  WireHeader header;
  BodyBuffer body, unpacked;
};

absl::Status Read(const WireHeader& header, int64_t payload_bytes) {
  WireHeader read;
  return ReadFragment(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&header), sizeof(header)), payload_bytes,
                      &read);
}

TEST(Wire, ACallIsReadAsItWasWritten) {
  GoodCall good;
  ASSERT_TRUE(Read(good.header, static_cast<int64_t>(good.header.body_bytes)).ok());
  const auto read = ReadCall(good.header, good.body.data(), &good.unpacked, CallLimits{}, kNow);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->call_id, 9u);
  EXPECT_EQ(read->placement_epoch, 4u);
  EXPECT_EQ(read->layer, LayerId{2});
  EXPECT_EQ(read->row_offsets, absl::MakeConstSpan(good.offsets));
  EXPECT_EQ(read->experts, absl::MakeConstSpan(good.experts));
  EXPECT_EQ(read->deadline, good.call.deadline);
  EXPECT_EQ(std::memcmp(read->rows.data, good.rows.view().data, good.rows.bytes()), 0);
}

TEST(Wire, PackedRowsAreReadAsTheyWereRounded) {
  MatBuffer plain(DType::kF32, 3, 40), rounded(DType::kBF16, 3, 40);
  for (int i = 0; i < 120; ++i) plain.view().Row<float>(0)[i] = 0.37f * static_cast<float>(i - 60);
  RoundToFp8(plain.view(), rounded.view());
  GoodCall good;
  const uint64_t bytes_unpacked = good.header.body_bytes;
  MarkPacked(&good.header);
  EXPECT_EQ(bytes_unpacked - good.header.body_bytes, 3u * (80 - 41));
  PackFp8(rounded.view(), good.body.data() + CallMetaBytes(3, 4));
  ASSERT_TRUE(Read(good.header, static_cast<int64_t>(good.header.body_bytes)).ok());
  const auto read = ReadCall(good.header, good.body.data(), &good.unpacked, CallLimits{}, kNow);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->experts, absl::MakeConstSpan(good.experts));
  EXPECT_EQ(std::memcmp(read->rows.data, rounded.view().data, static_cast<size_t>(rounded.bytes())), 0);
  EXPECT_EQ(ReadCall(good.header, good.body.data(), nullptr, CallLimits{}, kNow).status().code(),
            absl::StatusCode::kInvalidArgument);
  good.header.rows = good.header.cols = 16384;
  good.header.dtype = 0;
  good.header.pairs = 0;
  MarkPacked(&good.header);
  EXPECT_THAT(std::string(Read(good.header, 100).message()), HasSubstr("rows")) << "more than any call may have";
}

TEST(Wire, AHeaderOutOfRangeIsRefusedByName) {
  const GoodCall good;
  const int64_t bytes = static_cast<int64_t>(good.header.body_bytes);
  const auto refused = [&](void (*spoil)(WireHeader&), const std::string& names) {
    WireHeader header = good.header;
    spoil(header);
    const absl::Status status = Read(header, bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << names;
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
  };
  refused([](WireHeader& h) { h.magic ^= 1; }, "magic");
  refused([](WireHeader& h) { h.version = 9; }, "version");
  refused([](WireHeader& h) { h.version = kWireVersionMin - 1; }, "version");
  refused([](WireHeader& h) { h.kind = static_cast<WireKind>(0); }, "kind");
  refused([](WireHeader& h) { h.kind = static_cast<WireKind>(5); }, "kind");
  refused([](WireHeader& h) { h.flags = 0x80; }, "flags");
  refused([](WireHeader& h) { h.dtype = 2; }, "dtype");
  refused([](WireHeader& h) { h.rows = 1u << 31; }, "rows");
  refused([](WireHeader& h) { h.cols = 0; }, "cols");
  refused([](WireHeader& h) { h.cols = ~0u; }, "cols");
  refused([](WireHeader& h) { h.pairs = ~0u; }, "pairs");
  refused([](WireHeader& h) { ++h.body_bytes; }, "body_bytes");
  refused([](WireHeader& h) { h.offset = 1; }, "offset");
  refused([](WireHeader& h) { h.offset = ~uint64_t{0}; }, "offset");
  EXPECT_FALSE(Read(good.header, 0).ok()) << "a fragment without bytes would never end";
  WireHeader read;
  EXPECT_FALSE(ReadFragment({}, 0, &read).ok());
}

TEST(Wire, IndicesInTheBodyAreCheckedBeforeUse) {
  for (const auto& [at, value] :
       std::vector<std::pair<size_t, uint32_t>>{{0, 1}, {1, 9}, {2, ~0u}, {3, 3}, {4, ~0u}, {5, 1}, {6, 1u << 30}}) {
    GoodCall bad;
    std::memcpy(bad.body.data() + at * 4, &value, 4);
    EXPECT_EQ(ReadCall(bad.header, bad.body.data(), &bad.unpacked, CallLimits{}, kNow).status().code(),
              absl::StatusCode::kInvalidArgument)
        << "word " << at;
  }
}

TEST(Wire, AgreesOnTheHighestVersionThatBothSpeak) {
  // A shard of version 3 takes routers of 3 and 2.
  EXPECT_EQ(*AgreeOnVersion(2, 3, 2, 3), 3u);
  EXPECT_EQ(*AgreeOnVersion(1, 2, 2, 3), 2u);
  EXPECT_EQ(*AgreeOnVersion(3, 4, 2, 3), 3u);
  EXPECT_EQ(AgreeOnVersion(1, 1, 2, 3).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(AgreeOnVersion(5, 6, 2, 3).status().message()), HasSubstr("versions 5 to 6"));
}

class MessageGatherTest : public testing::Test {
 protected:
  // Sends bytes [begin, end) of the good call's body.
  absl::StatusOr<bool> Send(uint64_t begin, uint64_t end) {
    WireHeader fragment = good_.header;
    fragment.offset = begin;
    return gather_.Accept(fragment, good_.body.data() + begin, static_cast<int64_t>(end - begin));
  }
  GoodCall good_;
  const uint64_t whole_ = good_.header.body_bytes;
  MessageGather gather_;
};

TEST_F(MessageGatherTest, PutsFragmentsTogether) {
  ASSERT_FALSE(*Send(0, 10));
  ASSERT_FALSE(*Send(10, 100));
  ASSERT_TRUE(*Send(100, whole_));
  EXPECT_EQ(std::memcmp(gather_.Take(BodyBuffer{}).data(), good_.body.data(), whole_), 0);
  good_.header.sequence = 2;
  EXPECT_TRUE(*Send(0, whole_)) << "and the next message";
}

TEST_F(MessageGatherTest, RefusesAMessageThatCameBefore) {
  ASSERT_TRUE(*Send(0, whole_));
  EXPECT_THAT(std::string(Send(0, whole_).status().message()), HasSubstr("it came before"));
}

TEST_F(MessageGatherTest, RefusesFragmentsOutOfOrder) {
  EXPECT_FALSE(Send(10, 20).ok()) << "a message begins at its begin";
  ASSERT_TRUE(Send(0, 10).ok());
  EXPECT_FALSE(Send(20, 30).ok()) << "a gap";
}

TEST_F(MessageGatherTest, RefusesAMessageWithinAnother) {
  ASSERT_TRUE(Send(0, 10).ok());
  good_.header.sequence = 2;
  EXPECT_FALSE(Send(0, whole_).ok());
  good_.header.sequence = 3;
  EXPECT_TRUE(*Send(0, whole_)) << "what was refused leaves nothing behind";
}

TEST_F(MessageGatherTest, FindsOneDamagedBitAnywhere) {
  good_.Seal();
  ASSERT_TRUE(*Send(0, whole_));
  for (const uint64_t at : {uint64_t{0}, uint64_t{5}, uint64_t{70}, whole_ - 1}) {
    ++good_.header.sequence;
    good_.Seal();
    good_.body.data()[at] ^= std::byte{16};
    ASSERT_FALSE(*Send(0, 8));
    EXPECT_EQ(Send(8, whole_).status().code(), absl::StatusCode::kDataLoss) << at;
    good_.body.data()[at] ^= std::byte{16};
  }
  ++good_.header.sequence;
  good_.Seal();
  ++good_.header.layer;
  EXPECT_EQ(Send(0, whole_).status().code(), absl::StatusCode::kDataLoss) << "the header counts too";
}

TEST_F(MessageGatherTest, TheChecksumOfAMessageStandsInItsLastFragment) {
  good_.Seal();
  const uint64_t checksum = std::exchange(good_.header.checksum, 0);
  ASSERT_FALSE(*Send(0, 10));
  ASSERT_FALSE(*Send(10, 100));
  good_.header.checksum = checksum;
  EXPECT_TRUE(*Send(100, whole_));
  ++good_.header.sequence;
  ASSERT_FALSE(*Send(0, 100));
  good_.header.checksum = 0;
  EXPECT_EQ(Send(100, whole_).status().code(), absl::StatusCode::kDataLoss) << "none came";
}

TEST_F(MessageGatherTest, InTheVersionBeforeEveryFragmentHasTheChecksum) {
  good_.header.version = 2;
  good_.Seal();
  ASSERT_FALSE(*Send(0, 10));
  ASSERT_TRUE(*Send(10, whole_));
  ++good_.header.sequence;
  good_.Seal();
  ASSERT_FALSE(*Send(0, 10));
  good_.header.checksum ^= 1;
  EXPECT_FALSE(Send(10, whole_).ok()) << "another message's fragment";
}

TEST_F(MessageGatherTest, DoesNotBelieveWhatAHeaderClaimsToNeed) {
  good_.header.rows = 16000;
  good_.header.cols = 16000;
  good_.header.pairs = 0;
  good_.header.body_bytes = static_cast<uint64_t>(CallMetaBytes(16000, 0)) + uint64_t{16000} * 16000 * 2;
  ASSERT_TRUE(Send(0, 100).ok());
  EXPECT_LE(gather_.bytes_held(), 8 << 20);
}

}  // namespace
}  // namespace conclave
