#include "moe/transport/peer_gate.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class PeerGateTest : public testing::Test {
 protected:
  bool Offend(const std::string& name, Carrier carrier = Carrier::kGrpc) {
    return gate_.Offend(carrier, Refusal::kCall, Peer{name, "10.0.0.3"}, "experts[0]: -1");
  }
  FakeClock clock_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create();
  PeerGate gate_{&clock_, metrics_.get()};
};

TEST_F(PeerGateTest, RepeatedOffencesEndInQuarantineThatGrows) {
  for (const absl::Duration quarantine : {PeerGate::kQuarantineMin, 2 * PeerGate::kQuarantineMin}) {
    for (int i = 1; i < PeerGate::kOffencesMax; ++i) EXPECT_FALSE(Offend("a"));
    EXPECT_TRUE(gate_.Admit("a").ok());
    EXPECT_TRUE(Offend("a"));
    const absl::Status refused = gate_.Admit("a");
    EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("quarantine"));
    EXPECT_TRUE(gate_.Admit("b").ok());
    clock_.Advance(quarantine);
    EXPECT_TRUE(gate_.Admit("a").ok());
  }
}

TEST_F(PeerGateTest, OffencesCountTogetherWhateverCarriedThem) {
  EXPECT_FALSE(Offend("a", Carrier::kGrpc));
  EXPECT_FALSE(Offend("a", Carrier::kUcx));
  EXPECT_TRUE(Offend("a", Carrier::kGrpc));
}

TEST_F(PeerGateTest, OffencesLongAgoAreForgotten) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(Offend("a"));
    clock_.Advance(PeerGate::kOffenceWindow);
  }
}

TEST_F(PeerGateTest, WhatCanHappenToAnHonestPeerIsNotHeldAgainstIt) {
  for (int i = 0; i < 10; ++i) gate_.Refuse(Carrier::kGrpc, Refusal::kChecksum, Peer{"a", "10.0.0.3"}, "damaged");
  EXPECT_TRUE(gate_.Admit("a").ok());
}

TEST_F(PeerGateTest, CountsByTransportAndReason) {
  for (int i = 0; i < PeerGate::kOffencesMax; ++i) Offend("a", Carrier::kUcx);
  gate_.Refuse(Carrier::kGrpc, Refusal::kMismatch, Peer{"a", ""}, "another model");
  const std::string text = metrics_->Text();
  EXPECT_THAT(text, HasSubstr(R"(conclave_expert_refused_total{reason="call",transport="ucx"} 3)"));
  EXPECT_THAT(text, HasSubstr(R"(conclave_expert_refused_total{reason="mismatch",transport="grpc"} 1)"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_quarantines_total 1"));
}

TEST_F(PeerGateTest, ManyNamesDoNotGrowItWithoutBound) {
  for (int i = 0; i < 20000; ++i) Offend(absl::StrCat("name-", i));
  clock_.Advance(PeerGate::kOffenceWindow);  // the others are forgotten, and there is room for a new name
  for (int i = 0; i < PeerGate::kOffencesMax; ++i) Offend("a");
  EXPECT_FALSE(gate_.Admit("a").ok());
}

TEST(Peer, IsNamedForLogsOnOneLine) {
  EXPECT_EQ((Peer{"router-0", "10.0.0.3"}.Who()), "router-0 at 10.0.0.3");
  EXPECT_EQ((Peer{"", "10.0.0.3"}.Who()), "10.0.0.3");
  EXPECT_EQ((Peer{"a\nforged", "::1"}.Who()), "a\\nforged at ::1");
}

}  // namespace
}  // namespace conclave
