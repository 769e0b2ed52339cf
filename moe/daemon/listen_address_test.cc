#include "moe/daemon/listen_address.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(HostPort, ReadsNamesAndBothKindsOfAddress) {
  EXPECT_EQ(ParseHostPort("127.0.0.1:8000")->host, "127.0.0.1");
  EXPECT_EQ(ParseHostPort("127.0.0.1:8000")->port, 8000);
  EXPECT_EQ(ParseHostPort("[::1]:0")->host, "::1");
  EXPECT_EQ(ParseHostPort("shard-0.shards.svc:65535")->port, 65535);
}

TEST(HostPort, RefusesEverythingElse) {
  for (const char* text : {"", ":", "host", "host:", ":80", "host:65536", "host:-1", "host:+1", "host: 1", "::1:80",
                           "[]:1", "host:1x", "ho st:1", "host:99999999999999999999", "a\"b:1"}) {
    EXPECT_EQ(ParseHostPort(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseHostPort(std::string(1'000'000, 'x') + ":1").ok());
}

TEST(HostPort, JoinsWithBracketsWhereTheyBelong) {
  EXPECT_EQ(JoinHostPort("127.0.0.1", 80), "127.0.0.1:80");
  EXPECT_EQ(JoinHostPort("::1", 80), "[::1]:80");
}

}  // namespace
}  // namespace conclave
