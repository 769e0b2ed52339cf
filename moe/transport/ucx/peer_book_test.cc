#include "moe/transport/ucx/peer_book.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

class PeerBookTest : public testing::Test {
 protected:
  FakeClock clock_;
  PeerBook book_{&clock_};
};

TEST_F(PeerBookTest, ATokenIsGoodOnce) {
  const auto ticket = book_.Issue("router-a");
  ASSERT_TRUE(ticket.ok());
  EXPECT_TRUE(book_.Expecting());
  EXPECT_EQ(*book_.Redeem(ticket->connection, ticket->token), "router-a");
  EXPECT_EQ(book_.Redeem(ticket->connection, ticket->token).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_FALSE(book_.Expecting());
}

TEST_F(PeerBookTest, ATokenFitsItsConnectionAlone) {
  const auto a = book_.Issue("a"), b = book_.Issue("b");
  EXPECT_NE(a->token, b->token);
  EXPECT_FALSE(book_.Redeem(a->connection, b->token).ok());
  EXPECT_FALSE(book_.Redeem(b->connection + 1, b->token).ok());
  std::string wrong = a->token;
  wrong.back() ^= 1;
  EXPECT_FALSE(book_.Redeem(a->connection, wrong).ok());
  EXPECT_FALSE(book_.Redeem(a->connection, "").ok());
  EXPECT_TRUE(book_.Redeem(a->connection, a->token).ok()) << "a wrong guess does not use it up";
}

TEST_F(PeerBookTest, ATokenGetsOld) {
  const auto ticket = book_.Issue("a");
  clock_.Advance(PeerBook::kTokenLife);
  EXPECT_FALSE(book_.Redeem(ticket->connection, ticket->token).ok());
}

TEST_F(PeerBookTest, RepeatedOffencesEndInQuarantineThatGrows) {
  for (const absl::Duration quarantine : {PeerBook::kQuarantineMin, 2 * PeerBook::kQuarantineMin}) {
    for (int i = 1; i < PeerBook::kOffencesMax; ++i) EXPECT_FALSE(book_.Offend("a"));
    EXPECT_TRUE(book_.Issue("a").ok());
    EXPECT_TRUE(book_.Offend("a"));
    EXPECT_TRUE(book_.Quarantined("a"));
    EXPECT_FALSE(book_.Quarantined("b"));
    const auto refused = book_.Issue("a");
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(refused.status().message()), testing::HasSubstr("quarantine"));
    EXPECT_TRUE(book_.Issue("b").ok());
    clock_.Advance(quarantine);
    EXPECT_TRUE(book_.Issue("a").ok());
  }
}

TEST_F(PeerBookTest, OffencesLongAgoAreForgotten) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(book_.Offend("a"));
    clock_.Advance(PeerBook::kOffenceWindow);
  }
}

TEST_F(PeerBookTest, OutstandingTokensAreBounded) {
  for (int i = 0; i < PeerBook::kTokensMax; ++i) ASSERT_TRUE(book_.Issue("a").ok());
  EXPECT_EQ(book_.Issue("a").status().code(), absl::StatusCode::kResourceExhausted);
  clock_.Advance(PeerBook::kTokenLife);
  EXPECT_TRUE(book_.Issue("a").ok());
}

}  // namespace
}  // namespace conclave
