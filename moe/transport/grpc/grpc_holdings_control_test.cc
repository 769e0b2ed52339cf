#include "moe/transport/grpc/grpc_holdings_control.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/ids.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/grpc/expert_grpc_service.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

// Notes what it is asked for.
class Notebook final : public ExpertHandler {
 public:
  Notebook() {
    description.name = "expert-0";
    description.hidden = 8;
    description.revision = 0xfedcba9876543210;
    description.experts_per_layer = 4;
    description.replicas = 2;
    description.holdings = {{LayerId{1}, {ExpertId{0}, ExpertId{2}}}};
  }
  ShardDescription Describe() const override { return description; }
  absl::Status Run(const ExpertCall&, MatView) override { return absl::InternalError("not asked for"); }
  absl::Status PrepareExperts(absl::Span<const LayerHolding> experts) override { return Note("prepare", experts); }
  absl::StatusOr<ShardDescription> LoadExperts(absl::Span<const LayerHolding> experts) override {
    return Answer("load", experts, 0);
  }
  absl::StatusOr<ShardDescription> KeepExperts(absl::Span<const LayerHolding> experts, uint64_t revision) override {
    return Answer("keep", experts, revision);
  }
  absl::StatusOr<ShardDescription> UnloadExperts(absl::Span<const LayerHolding> experts, uint64_t revision) override {
    return Answer("unload", experts, revision);
  }
  std::vector<LayerTokens> Tokens() const override { return {{LayerId{1}, {5, 0, uint64_t{1} << 40, 7}}}; }

  ShardDescription description;
  absl::Status refusal;
  std::vector<std::string> notes;

 private:
  absl::Status Note(const std::string& what, absl::Span<const LayerHolding> experts) {
    notes.push_back(what + " " + std::to_string(Value(experts[0].layer)) + ": " + FormatExperts(experts[0].experts));
    return refusal;
  }
  absl::StatusOr<ShardDescription> Answer(const std::string& what, absl::Span<const LayerHolding> experts,
                                          uint64_t revision) {
    if (absl::Status status = Note(what, experts); !status.ok()) return status;
    if (revision != 0) notes.back() += revision == description.revision ? " at the revision" : " at another revision";
    return description;
  }
};

class GrpcHoldingsControlTest : public testing::Test {
 protected:
  Notebook shard_;
  std::unique_ptr<GrpcExpertServer> server_ = *GrpcExpertServer::Start("127.0.0.1:0", shard_);
  std::unique_ptr<HoldingsControl> control_ = NewGrpcHoldingsControl(server_->address());
  const std::vector<LayerHolding> experts_ = {{LayerId{1}, {ExpertId{0}, ExpertId{2}}}};
};

TEST_F(GrpcHoldingsControlTest, TellsWhatTheShardSaysOfItselfAndItsTokens) {
  const auto state = control_->Describe(kTimeout);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->description.revision, shard_.description.revision);
  EXPECT_EQ(state->description.experts_per_layer, 4);
  EXPECT_EQ(state->description.replicas, 2);
  ASSERT_EQ(state->tokens.size(), 1u);
  EXPECT_EQ(state->tokens[0].layer, LayerId{1});
  EXPECT_EQ(state->tokens[0].tokens, shard_.Tokens()[0].tokens);
}

TEST_F(GrpcHoldingsControlTest, CarriesEveryRequestWithItsRevision) {
  ASSERT_TRUE(control_->LoadExperts(experts_, kTimeout).ok());
  ASSERT_TRUE(control_->KeepExperts(experts_, shard_.description.revision, kTimeout).ok());
  ASSERT_TRUE(control_->UnloadExperts(experts_, shard_.description.revision + 1, kTimeout).ok());
  EXPECT_THAT(shard_.notes, testing::ElementsAre("prepare 1: 0, 2", "load 1: 0, 2", "keep 1: 0, 2 at the revision",
                                                 "unload 1: 0, 2 at another revision"));
}

TEST_F(GrpcHoldingsControlTest, ErrorsAreTheShardsAndNameItsAddress) {
  shard_.refusal = absl::AbortedError("somebody else");
  const absl::Status status = control_->UnloadExperts(experts_, 1, kTimeout).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_->address()));
  shard_.refusal = absl::DataLossError("a damaged file");
  shard_.notes.clear();
  EXPECT_EQ(control_->LoadExperts(experts_, kTimeout).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(shard_.notes.size(), 1u) << "what could not be read must not be announced";
}

TEST_F(GrpcHoldingsControlTest, AShardThatIsGoneIsUnavailable) {
  server_.reset();
  const absl::Status status = control_->Describe(absl::Seconds(2)).status();
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
}

}  // namespace
}  // namespace conclave
