#include "moe/transport/transport_test_suite.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "moe/tensor/dtype.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

constexpr int64_t kExtraColumns = 5;

void Store(MatView view, int64_t row, int64_t col, float value) {
  if (view.dtype == DType::kF32) {
    view.Row<float>(row)[col] = value;
  } else {
    view.Row<uint16_t>(row)[col] = FloatToBf16(value);
  }
}

}  // namespace

TestCall::TestCall(uint64_t call_id, DType dtype, int64_t rows, int64_t hidden,
                   std::vector<std::vector<int32_t>> experts)
    : hidden_(hidden), rows_(dtype, rows, hidden + kExtraColumns) {
  row_offsets_.push_back(0);
  for (int64_t row = 0; row < rows; ++row) {
    const std::vector<int32_t>& of_row = experts[row % experts.size()];
    experts_.insert(experts_.end(), of_row.begin(), of_row.end());
    row_offsets_.push_back(static_cast<uint32_t>(experts_.size()));
    for (int64_t col = 0; col < hidden; ++col) {
      Store(rows_.view(), row, col, static_cast<float>((call_id * 7 + row * 3 + col) % 64));
    }
  }
  out_ = MatBuffer(dtype, static_cast<int64_t>(experts_.size()), hidden + kExtraColumns);
  call_.call_id = call_id;
  call_.placement_epoch = 1;
  call_.rows = ConstMatView(rows_.view()).Cols(0, hidden);
  call_.row_offsets = row_offsets_;
  call_.experts = experts_;
}

void TestCall::RoundRowsToFp8() {
  const int64_t rows = rows_.view().rows;
  MatBuffer plain(DType::kF32, rows, hidden_);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < hidden_; ++col) {
      plain.view().Row<float>(row)[col] = LoadAsFloat(rows_.view().RowBytes(row), rows_.view().dtype, col);
    }
  }
  RoundToFp8(plain.view(), rows_.view().Cols(0, hidden_));
  call_.format = RowFormat::kFp8;
}

void TestCall::Send(Transport& transport, ShardId shard, absl::Duration timeout) {
  call_.deadline = absl::Now() + timeout;
  FillOut();
  transport.Call(shard, call_, out(), [this](const absl::Status& status) {
    status_ = status;
    ++done_;
  });
}

testing::AssertionResult TestCall::OutIsRight() const {
  for (size_t row = 0; row + 1 < row_offsets_.size(); ++row) {
    for (uint32_t p = row_offsets_[row]; p < row_offsets_[row + 1]; ++p) {
      for (int64_t col = 0; col < hidden_; ++col) {
        const float in = LoadAsFloat(rows_.view().RowBytes(row), rows_.view().dtype, col);
        const float got = LoadAsFloat(out_.view().RowBytes(p), out_.view().dtype, col);
        const float want = FakeExpertValue(in, call_.layer, experts_[p]);
        if (got != want) {
          return testing::AssertionFailure()
                 << "row " << row << " expert " << experts_[p] << " column " << col << ": " << got << ", want " << want;
        }
      }
    }
  }
  return testing::AssertionSuccess();
}

void TestCall::FillOut() {
  if (out_.bytes() > 0) std::memset(out_.view().data, 0x5a, out_.bytes());
}

bool TestCall::OutIsUntouched() const {
  const auto* bytes = static_cast<const unsigned char*>(out_.view().data);
  for (int64_t i = 0; i < out_.bytes(); ++i) {
    if (bytes[i] != 0x5a) return false;
  }
  return true;
}

void TransportTest::Start(int shards, int hidden) {
  std::vector<ExpertHandler*> pointers;
  for (int i = 0; i < shards; ++i) {
    handlers_.push_back(std::make_unique<FakeExpertHandler>("fake-" + std::to_string(i), hidden, kExperts));
    pointers.push_back(handlers_.back().get());
  }
  harness_ = GetParam()(std::move(pointers));
  ASSERT_NE(harness_, nullptr);
  ASSERT_EQ(transport().shards(), shards);
}

void TransportTest::TearDown() {
  for (auto& handler : handlers_) handler->Resume();  // so that threads which wait inside can be joined
  harness_.reset();
}

std::unique_ptr<TestCall> TransportTest::NewCall(DType dtype) {
  std::vector<std::vector<int32_t>> experts = {{0, 3, 15}, {}, {7}};
  return std::make_unique<TestCall>(next_call_id_++, dtype, 3, kHidden, std::move(experts));
}

bool TransportTest::Wait(const TestCall& call) {
  const absl::Time until = absl::Now() + absl::Seconds(30);
  while (!call.done() && absl::Now() < until) transport().Progress(absl::Milliseconds(100));
  return call.done();
}

void TransportTest::ProgressFor(absl::Duration duration) {
  for (const absl::Time until = absl::Now() + duration; absl::Now() < until;) {
    transport().Progress(until - absl::Now());
  }
}

testing::AssertionResult TransportTest::AnswersSoon(ShardId shard) {
  absl::Status last;
  for (const absl::Time until = absl::Now() + absl::Seconds(30); absl::Now() < until;) {
    auto call = NewCall();
    call->Send(transport(), shard, absl::Seconds(5));
    if (!Wait(*call)) return testing::AssertionFailure() << "a call never ended";
    if (call->status().ok()) return call->OutIsRight();
    last = call->status();
    ProgressFor(absl::Milliseconds(20));
  }
  return testing::AssertionFailure() << last;
}

TEST_P(TransportTest, ACancelledCallEndsAtOnceAndNeverTouchesItsMemory) {
  Start(1);
  handlers_[0]->Hang();
  const auto call = NewCall();
  call->Send(transport(), ShardId{0});
  ProgressFor(absl::Milliseconds(50));
  EXPECT_FALSE(call->done());
  transport().Cancel(call->call().call_id);
  transport().Progress(absl::Seconds(1));
  EXPECT_EQ(call->status().code(), absl::StatusCode::kCancelled);
  handlers_[0]->Resume();
  ProgressFor(absl::Milliseconds(50));
  EXPECT_EQ(call->times_done(), 1);
  EXPECT_TRUE(call->OutIsUntouched());
  transport().Cancel(call->call().call_id);  // once more is nothing
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
}

TEST_P(TransportTest, CancelledCallsThatAShardDoesNotTakeInEndAllTheSame) {
  constexpr int kWide = 4096;
  Start(1, /*hidden=*/0);
  ASSERT_TRUE(AnswersSoon(ShardId{0}));
  handlers_[0]->Hang();
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < 4; ++i) {  // more than what lies between the two can hold
    const std::vector<std::vector<int32_t>> experts = {{1}};
    calls.push_back(std::make_unique<TestCall>(next_call_id_++, DType::kF32, 512, kWide, experts));
    calls.back()->Send(transport(), ShardId{0}, absl::Hours(1));
  }
  ProgressFor(absl::Milliseconds(50));
  for (const auto& call : calls) transport().Cancel(call->call().call_id);
  for (const auto& call : calls) {
    ASSERT_TRUE(Wait(*call)) << "the caller wants its rows back";
    EXPECT_EQ(call->status().code(), absl::StatusCode::kCancelled);
    EXPECT_TRUE(call->OutIsUntouched());
  }
  handlers_[0]->Resume();
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
}

TEST_P(TransportTest, EachExpertAnswersWithItsOwnFunction) {
  Start(2);
  auto call = NewCall();
  call->Send(transport(), ShardId{1});
  ASSERT_TRUE(Wait(*call));
  EXPECT_TRUE(call->status().ok()) << call->status();
  EXPECT_TRUE(call->OutIsRight());
  EXPECT_EQ(handlers_[0]->runs(), 0);
}

TEST_P(TransportTest, CarriesBothRowDtypes) {
  Start(1, /*hidden=*/0);
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kBF16}) {
    auto call = NewCall(dtype);
    call->Send(transport(), ShardId{0});
    ASSERT_TRUE(Wait(*call));
    EXPECT_TRUE(call->status().ok()) << call->status();
    EXPECT_TRUE(call->OutIsRight());
  }
}

TEST_P(TransportTest, DoneRunsInProgressOnlyAndOnce) {
  Start(1);
  auto call = NewCall();
  call->Send(transport(), ShardId{0});
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(call->done());
  ASSERT_TRUE(Wait(*call));
  ProgressFor(absl::Milliseconds(50));
  EXPECT_EQ(call->times_done(), 1);
}

TEST_P(TransportTest, ManyCallsInFlightEachGetTheirOwnReply) {
  constexpr int kShards = 3, kCalls = 120;
  Start(kShards);
  std::vector<std::unique_ptr<TestCall>> calls;
  for (int i = 0; i < kCalls; ++i) {
    const std::vector<std::vector<int32_t>> experts = {{i % kExperts}, {0, 1, 2, 3}, {}, {5, 11}};
    calls.push_back(std::make_unique<TestCall>(next_call_id_++, DType::kF32, 1 + i % 9, kHidden, experts));
    calls.back()->Send(transport(), ShardId{i % kShards});
  }
  for (auto& call : calls) {
    ASSERT_TRUE(Wait(*call));
    EXPECT_TRUE(call->status().ok()) << call->status();
    EXPECT_TRUE(call->OutIsRight());
    EXPECT_EQ(call->times_done(), 1);
  }
}

TEST_P(TransportTest, ACallWithoutRowsIsAnswered) {
  Start(1);
  TestCall call(next_call_id_++, DType::kF32, 0, kHidden, {});
  call.Send(transport(), ShardId{0});
  ASSERT_TRUE(Wait(call));
  EXPECT_TRUE(call.status().ok()) << call.status();
}

TEST_P(TransportTest, CarriesMegabytes) {
  constexpr int kWide = 4096;
  Start(1, kWide);
  TestCall call(next_call_id_++, DType::kF32, 512, kWide, {{1, 2}});  // 8 MiB there, 16 MiB back
  call.Send(transport(), ShardId{0});
  ASSERT_TRUE(Wait(call));
  EXPECT_TRUE(call.status().ok()) << call.status();
  EXPECT_TRUE(call.OutIsRight());
}

TEST_P(TransportTest, RefusesWhatIsOutOfRangeAndServesOn) {
  Start(1);
  struct Case {
    std::vector<std::vector<int32_t>> experts;
    int64_t hidden;
    absl::StatusCode code;
    std::string names;
  };
  const std::vector<Case> cases = {
      {{{-1}}, kHidden, absl::StatusCode::kInvalidArgument, "experts[0]"},
      {{{1, 1}}, kHidden, absl::StatusCode::kInvalidArgument, "experts[1]"},
      {{{1 << 30}}, kHidden, absl::StatusCode::kInvalidArgument, "experts[0]"},
      {{{kExperts}}, kHidden, absl::StatusCode::kFailedPrecondition, "expert 16"},
      {{{0}}, kHidden + 1, absl::StatusCode::kInvalidArgument, "rows.shape[1]"},
  };
  for (const Case& bad : cases) {
    TestCall call(next_call_id_++, DType::kF32, 1, bad.hidden, bad.experts);
    call.Send(transport(), ShardId{0});
    ASSERT_TRUE(Wait(call));
    EXPECT_EQ(call.status().code(), bad.code) << call.status();
    EXPECT_THAT(std::string(call.status().message()), testing::HasSubstr(bad.names));
    EXPECT_TRUE(call.OutIsUntouched());
  }
  auto bad_layer = NewCall();
  bad_layer->call().layer = LayerId{-3};
  bad_layer->Send(transport(), ShardId{0});
  ASSERT_TRUE(Wait(*bad_layer));
  EXPECT_EQ(bad_layer->status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
}

TEST_P(TransportTest, RefusesAShardThatIsNoneOfItsOwn) {
  Start(1);
  for (const ShardId shard : {ShardId{-1}, ShardId{1}}) {
    auto call = NewCall();
    call->Send(transport(), shard);
    ASSERT_TRUE(Wait(*call));
    EXPECT_EQ(call->status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(TransportTest, PassesOnWhatTheShardAnswers) {
  Start(1);
  handlers_[0]->FailWith(absl::FailedPreconditionError("holds 3-5 only"));
  auto call = NewCall();
  call->Send(transport(), ShardId{0});
  ASSERT_TRUE(Wait(*call));
  EXPECT_EQ(call->status(), absl::FailedPreconditionError("holds 3-5 only"));
  EXPECT_TRUE(call->OutIsUntouched());
}

TEST_P(TransportTest, EndsACallAtItsDeadlineAndDropsTheLateReply) {
  Start(2);
  ASSERT_TRUE(AnswersSoon(ShardId{0}));
  handlers_[0]->Hang();
  auto late = NewCall();
  const absl::Time begin = absl::Now();
  late->Send(transport(), ShardId{0}, absl::Milliseconds(80));
  ASSERT_TRUE(Wait(*late));
  EXPECT_EQ(late->status().code(), absl::StatusCode::kDeadlineExceeded) << late->status();
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(80));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));

  EXPECT_TRUE(AnswersSoon(ShardId{1})) << "a shard that hangs must not stop the others";
  handlers_[0]->Resume();
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
  EXPECT_TRUE(late->OutIsUntouched());
  EXPECT_EQ(late->times_done(), 1);
}

TEST_P(TransportTest, TheMemoryOfACallMayGoAwayWhenItIsDone) {
  Start(1);
  handlers_[0]->Hang();
  for (int i = 0; i < 5; ++i) {
    TestCall call(next_call_id_++, DType::kF32, 64, kHidden, {{0, 1}});
    call.Send(transport(), ShardId{0}, absl::Milliseconds(10));
    ASSERT_TRUE(Wait(call));
  }
  handlers_[0]->Resume();
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
}

TEST_P(TransportTest, AShardThatIsGoneIsUnavailableAndMayComeBack) {
  Start(2);
  ASSERT_TRUE(AnswersSoon(ShardId{0}));
  ASSERT_TRUE(AnswersSoon(ShardId{1}));
  harness_->Kill(ShardId{0});
  auto call = NewCall();
  call->Send(transport(), ShardId{0}, absl::Seconds(20));
  ASSERT_TRUE(Wait(*call));
  EXPECT_EQ(call->status().code(), absl::StatusCode::kUnavailable) << call->status();
  EXPECT_THAT(std::string(call->status().message()), testing::HasSubstr("shard 0"));
  EXPECT_TRUE(AnswersSoon(ShardId{1}));
  harness_->Revive(ShardId{0});
  EXPECT_TRUE(AnswersSoon(ShardId{0}));
}

TEST_P(TransportTest, CallsInFlightEndWhenTheirShardGoes) {
  Start(2);
  ASSERT_TRUE(AnswersSoon(ShardId{0}));
  handlers_[0]->Hang();
  auto lost = NewCall();
  lost->Send(transport(), ShardId{0});
  ProgressFor(absl::Milliseconds(50));
  ASSERT_FALSE(lost->done());
  // A kill may have to wait for the handler, so it is let go at the same time.
  handlers_[0]->FailWith(absl::UnavailableError("shard 0 is stopping"));
  handlers_[0]->Resume();
  harness_->Kill(ShardId{0});
  ASSERT_TRUE(Wait(*lost));
  EXPECT_EQ(lost->status().code(), absl::StatusCode::kUnavailable) << lost->status();
  EXPECT_TRUE(lost->OutIsUntouched());
  EXPECT_TRUE(AnswersSoon(ShardId{1}));
}

TEST_P(TransportTest, RowsRoundedToFp8ArriveAsTheyWere) {
  Start(1, /*hidden=*/0);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (int i = 0; i < 3; ++i) {  // a transport may learn from an answer that it may pack
      TestCall call(next_call_id_++, dtype, 40, 300, {{0, 3}, {}, {7}});
      call.RoundRowsToFp8();
      call.Send(transport(), ShardId{0});
      ASSERT_TRUE(Wait(call));
      EXPECT_TRUE(call.status().ok()) << call.status();
      EXPECT_TRUE(call.OutIsRight());
    }
  }
}

TEST_P(TransportTest, ADoneMaySendTheNextCall) {
  Start(2);
  auto first = NewCall();
  auto second = NewCall();
  first->call().deadline = absl::Now() + absl::Seconds(30);
  bool first_done = false;
  transport().Call(ShardId{0}, first->call(), first->out(), [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    first_done = true;
    second->Send(transport(), ShardId{1});
  });
  ASSERT_TRUE(Wait(*second));
  EXPECT_TRUE(first_done);
  EXPECT_TRUE(first->OutIsRight());
  EXPECT_TRUE(second->OutIsRight());
}

}  // namespace conclave
