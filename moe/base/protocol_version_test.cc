#include "moe/base/protocol_version.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(ProtocolVersion, NeighboursTalkAndOthersAreToldWhomToUpdate) {
  EXPECT_EQ(AnnouncedProtocolVersion(), kProtocolVersion);
  for (const int apart : {-1, 0, 1}) EXPECT_TRUE(CheckProtocolVersion("shard", kProtocolVersion + apart).ok()) << apart;
  const absl::Status older = CheckProtocolVersion("shard expert-1", kProtocolVersion - 2);
  EXPECT_EQ(older.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(older.message()), HasSubstr("shard expert-1 speaks version"));
  EXPECT_THAT(std::string(older.message()), HasSubstr("update the former first"));
  EXPECT_THAT(std::string(CheckProtocolVersion("shard", kProtocolVersion + 2).message()),
              HasSubstr("update the latter first"));
}

}  // namespace
}  // namespace conclave
