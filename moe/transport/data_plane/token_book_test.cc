#include "moe/transport/data_plane/token_book.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

class TokenBookTest : public testing::Test {
 protected:
  FakeClock clock_;
  TokenBook book_{&clock_};
};

TEST_F(TokenBookTest, ATokenIsGoodOnce) {
  const auto ticket = book_.Issue("router-a");
  ASSERT_TRUE(ticket.ok());
  EXPECT_TRUE(book_.Expecting());
  EXPECT_EQ(*book_.Redeem(ticket->connection, ticket->token), "router-a");
  EXPECT_EQ(book_.Redeem(ticket->connection, ticket->token).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_FALSE(book_.Expecting());
}

TEST_F(TokenBookTest, ATokenFitsItsConnectionAlone) {
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

TEST_F(TokenBookTest, ATokenGetsOld) {
  const auto ticket = book_.Issue("a");
  clock_.Advance(TokenBook::kTokenLife);
  EXPECT_FALSE(book_.Redeem(ticket->connection, ticket->token).ok());
}

TEST_F(TokenBookTest, OutstandingTokensAreBounded) {
  for (int i = 0; i < TokenBook::kTokensMax; ++i) ASSERT_TRUE(book_.Issue("a").ok());
  EXPECT_EQ(book_.Issue("a").status().code(), absl::StatusCode::kResourceExhausted);
  clock_.Advance(TokenBook::kTokenLife);
  EXPECT_TRUE(book_.Issue("a").ok());
}

}  // namespace
}  // namespace conclave
