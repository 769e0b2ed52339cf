// The promises of moe/transport/transport.h as tests. Every transport instantiates them:
//   INSTANTIATE_TEST_SUITE_P(Inproc, TransportTest, testing::Values(HarnessFactory(&NewInprocHarness)));
#ifndef CONCLAVE_MOE_TRANSPORT_TRANSPORT_TEST_SUITE_H_
#define CONCLAVE_MOE_TRANSPORT_TRANSPORT_TEST_SUITE_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "moe/tensor/buffer.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/fake_expert_handler.h"
#include "moe/transport/transport.h"

namespace conclave {

// Shards that can be killed and brought back, and the transport under test that reaches them.
class TransportHarness {
 public:
  virtual ~TransportHarness() = default;
  virtual Transport& transport() = 0;
  virtual void Kill(ShardId shard) = 0;
  virtual void Revive(ShardId shard) = 0;
};
using HarnessFactory = std::function<std::unique_ptr<TransportHarness>(std::vector<ExpertHandler*>)>;

// One call with its memory: row i holds values that name it, and goes to experts_per_row experts.
class TestCall {
 public:
  TestCall(uint64_t call_id, DType dtype, int64_t rows, int64_t hidden, std::vector<std::vector<int32_t>> experts);
  // Rounds the rows, and says so.
  void RoundRowsToFp8();
  // Sends it; `done()` tells when it is over and `status()` how.
  void Send(Transport& transport, ShardId shard, absl::Duration timeout = absl::Seconds(60));
  bool done() const { return done_ > 0; }
  int times_done() const { return done_; }
  const absl::Status& status() const { return status_; }
  // Whether every output is what the fake expert makes of its row.
  testing::AssertionResult OutIsRight() const;
  // Overwrites the outputs with a pattern, and tells whether it is still there.
  void FillOut();
  bool OutIsUntouched() const;
  ExpertCall& call() { return call_; }
  MatView out() { return out_.view().Cols(0, hidden_); }

 private:
  int64_t hidden_;
  MatBuffer rows_, out_;  // wider than hidden, so that strides matter
  std::vector<uint32_t> row_offsets_;
  std::vector<int32_t> experts_;
  ExpertCall call_;
  int done_ = 0;
  absl::Status status_;
};

// Parameterised by the transport: how a harness for given handlers is made.
class TransportTest : public testing::TestWithParam<HarnessFactory> {
 protected:
  static constexpr int kHidden = 24;
  static constexpr int kExperts = 16;

  // `shards` fake shards, each of them holding experts [0, kExperts) of layer 0.
  void Start(int shards, int hidden = kHidden);
  // The usual call: three rows, of which the second goes nowhere.
  std::unique_ptr<TestCall> NewCall(DType dtype = DType::kF32);
  // Progresses until `call` is over; false: it is not after 30 s.
  bool Wait(const TestCall& call);
  void ProgressFor(absl::Duration duration);
  // Sends calls until the shard answers one.
  testing::AssertionResult AnswersSoon(ShardId shard);
  Transport& transport() { return harness_->transport(); }
  void TearDown() override;

  std::vector<std::unique_ptr<FakeExpertHandler>> handlers_;
  std::unique_ptr<TransportHarness> harness_;
  uint64_t next_call_id_ = 1;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_TRANSPORT_TEST_SUITE_H_
